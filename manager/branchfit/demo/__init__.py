"""The main job on an embedded Hub: a loopback server, a tiny GPTQ model, a repo laid out like the real ones."""
