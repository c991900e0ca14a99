"""GGUF files (llama.cpp's format), read as the Hugging Face checkpoint they were made from.

`file.py` reads headers and blocks, `ggml_types.py` dequantizes, `tensors.py` gives tensors the names and the row order
of our families by the tables in `architectures.py`, `config.py` and `tokenizer.py` make config.json and tokenizer.json
of the metadata (`metadata.py`), and `directory.py` shows all of it as a directory.
"""
