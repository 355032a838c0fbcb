"""A stand-in for text-generation-webui, for tests without torch, gradio, transformers or a model.

Each folder here is one era of the host, with the names, parameters and order of calls of that version:
`v1` (v1.7, October 2023), `v3` (v3.23), `v4` (v4.7.3). What happens inside is written for these tests.
The modules beside the folders are what the eras share. A session copies an era's folder, adds extensions
to it and runs it (session.py).
"""
