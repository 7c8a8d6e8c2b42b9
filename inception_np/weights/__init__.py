"""A network's numbers in files: our own checkpoints, and what other libraries have published.

tensorfile.py   named arrays in one safetensors file, with a digest
checkpoint.py   state_dict, load_state_dict, save and load
names.py        what other libraries call our layers; keras_names.py has the names in Keras's files
convert.py      their names and layouts to ours, and back
readers.py      their files; keras_file.py reads HDF5 in a process of its own
command.py      `inception-np import`
"""
