"""The resumable job behind ``python -m runtime embed``: many items in, one file of vectors out.

inputs    the words of the command line as one ordered stream of sources, read as they are needed
journal   what is embedded already, kept on disk so that an interrupted job goes on where it stopped
run       the loop between the two
outputs   the spooled vectors as .npy, .npz or .parquet
vectors   those files, read again
"""
