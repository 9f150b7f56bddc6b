"""The catalog: what is where and in which state, in SQL. With the store, the truth.

The only door to SQLAlchemy. Each module holds the statements about one noun; all of them take a
:class:`Catalog` (or, to be part of a larger transaction, a session of one) and give frozen records.
"""

from understudy.catalog.database import Catalog

__all__ = ["Catalog"]
