"""BranchFit inside text-generation-webui.

What is here so far is a tab that says what the command can do. The prompt lock and the loader are
not part of this version, and nothing of the webui is changed.
"""
