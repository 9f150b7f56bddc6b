"""The dashboard: what people look at, as pages of NiceGUI in a process of its own.

It knows the system only as any client does: all that it shows and does goes through ``understudy.Client``, so
nothing here can be seen or done that the API does not allow, and serving never waits for a page.
"""
