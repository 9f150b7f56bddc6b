"""The routes, a noun a file. Each reads its request, calls the core, and answers with a record."""
