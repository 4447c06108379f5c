"""From the export of an annotation tool to a project: annotations in our form, config.yaml, space.yaml.

init.py         the whole way, and what came of it
export.py       Export, Picture, Item: what any tool's export comes to
dialects/       read an export of each kind
masks.py        the objects that can be learnt from, measured
fields.py       which fields are subcategories, and what their classes are
split.py        which images train and which score
annotations.py  the content of our annotation files
numbers.py      the figures of a data set that a configuration follows from
proposal.py     which recipe to build on, with which values
settings.py     a value and its reason, and the values of every recipe
small.py        values for `small_data`
published.py    values for `maskformer2_R50_instance`
files.py        the text of the files, and how they are written
"""
