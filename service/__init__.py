"""The HTTP service: answers /classify with the champion, and takes what is to be learned from.

Imports the core and FastAPI; never worker or trainer.
"""
