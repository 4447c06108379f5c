"""What is trained: a network with its losses, optimizer, schedule and first weights.

base.py          Learner: the contract, all that the training loop knows of a network
mask_former.py   our own network: built as the configuration says, and its learner
balance.py       weights of classes against rare ones being forgotten
prediction.py    predictions of our network as the configuration asks for them
sieves.py        what is left out of an image's predictions: duplicates of a mask
tiles.py         windows of a large image, and one instance of what several of them show
optimizer.py     AdamW in Mask2Former's groups, schedules, the learning rate of a batch
vitals.py        what is watched of every head while it trains
weights.py       MODEL.WEIGHTS into our network: whose names they have, what does not fit
weight_files.py  files of weights: from where they come, and what a file is that holds none
weight_folders.py  directories of weights: transformers' and ours, here or on the Hugging Face Hub
transformers_names.py  what transformers calls the tensors of a Mask2Former, and back
"""
