"""``understudy``: each command reads its words, calls the client or the local stack, and shows the answer.

``commands`` is the whole command line; the other modules are a subject each.
"""
