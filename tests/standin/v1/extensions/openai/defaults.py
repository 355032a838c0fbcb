"""What a request is where the client says nothing."""

import copy

default_req_params = {
    "max_new_tokens": 16,
    "auto_max_new_tokens": False,
    "max_tokens_second": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 1,
    "repetition_penalty": 1.18,
    "guidance_scale": 1,
    "do_sample": True,
    "stream": False,
    "echo": False,
    "seed": -1,
    "truncation_length": 2048,
    "add_bos_token": True,
    "negative_prompt": "",
    "skip_special_tokens": True,
    "custom_stopping_strings": "",
}


def get_default_req_params():
    return copy.deepcopy(default_req_params)


def default(dic, key, default):
    value = dic.get(key, default)
    return value if isinstance(value, type(default)) else default
