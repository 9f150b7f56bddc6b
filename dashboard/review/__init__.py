"""What the review page is made of: where its images come from, and the ways to say what they are."""
