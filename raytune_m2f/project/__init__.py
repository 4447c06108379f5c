"""From the export of an annotation tool to a project: annotations in our form, config.yaml, space.yaml.

export.py     Export, Picture, Item: what any tool's export comes to
dialects/     read an export of each kind
"""
