"""The rig of `side_by_side.py`: the upstream, the load, the targets, what is read off them, and how it is shown."""
