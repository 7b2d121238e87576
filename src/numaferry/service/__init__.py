"""The one object that faces call: `Ferry`."""

from numaferry.service.ferry import Ferry

__all__ = ["Ferry"]
