"""Labels of subcategories: those that are not where their head reads them, and those that no head reads.

elsewhere.py  find labels that are in another field than their head's
unused.py     find labels where no head is asked for
fields.py     which fields are labels, by their values
entries.py    the fields of an annotation, wherever in it they stand
"""

from raytune_m2f.data.labels.elsewhere import find_labels, wrong_label_message
from raytune_m2f.data.labels.unused import unused_labels

__all__ = ["find_labels", "unused_labels", "wrong_label_message"]
