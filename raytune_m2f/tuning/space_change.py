def space_changes(old, new):
    return []
