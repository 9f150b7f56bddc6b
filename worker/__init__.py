"""The workers: take uploads apart into shards, and pseudo-label shards with the champion.

Imports the core and Celery; never service or trainer.
"""
