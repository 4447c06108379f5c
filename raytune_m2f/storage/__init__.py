"""Files: where they are, who may write there, and how they are written and read.

folder.py        the folder of a study or a run, in a directory or on an object store: pull, push, lock
object_store.py  a folder on a store (s3://, gs://), one request a method
lease.py         the right to drive a study: a file's lock, or a lease on a store
address.py       addresses, and the credentials that none of them may hold
files.py         the one writer: a file is replaced as a whole, and carries a seal that tells ours from the user's
text.py          text and JSON of files that anybody may have changed
temporary.py     under TMPDIR: working copies of folders on stores, and room for sockets
"""
