"""The other servers, each at its best honest setting, doing the same work with the same code around it."""
