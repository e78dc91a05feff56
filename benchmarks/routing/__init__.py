"""Routing measured: which requests reach their adapter, what wrong routes cost, and what routing itself costs."""
