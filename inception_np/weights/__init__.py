"""A network's numbers in files: our own checkpoints, and what other libraries have published.

tensorfile.py   named arrays in one safetensors file, with a digest
checkpoint.py   state_dict, load_state_dict, save and load
names.py        what other libraries call our layers; keras_names.py has the names in Keras's files
convert.py      their names and layouts to ours, and back
readers.py      their files; keras_file.py reads HDF5 in a process of its own, tfjs_file.py TensorFlow.js's models
keras_config.py what Keras says of a whole model, and keras_graph.py whether that is our network
hub.py          a folder as on the Hugging Face hub: save_pretrained, from_pretrained
command.py      `inception-np import`
"""
