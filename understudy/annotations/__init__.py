"""What people said of images, in the files of other tools: in and out. Knows files and classes, and no service."""
