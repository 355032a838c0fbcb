"""What the host's modules share."""

from argparse import Namespace

model = None
tokenizer = None
model_name = "None"
is_seq2seq = False
lora_names = []

stop_everything = False
generation_lock = None
processing_message = "*Is typing...*"

gradio = {}
persistent_interface_state = {}
need_restart = False

settings = {
    "start_with": "",
    "mode": "chat",
    "chat_style": "cai-chat",
    "max_new_tokens": 200,
    "seed": -1,
    "negative_prompt": "",
    "truncation_length": 2048,
    "custom_stopping_strings": "",
    "auto_max_new_tokens": False,
    "max_tokens_second": 0,
    "ban_eos_token": False,
    "add_bos_token": True,
    "skip_special_tokens": True,
    "stream": True,
    "name1": "You",
    "character": "Assistant",
    "instruction_template": "Alpaca",
    "chat-instruct_command": 'Continue the chat dialogue below. Write a reply for "<|character|>".\n\n<|prompt|>',
    "default_extensions": [],
}

args = Namespace(
    extensions=None,
    model=None,
    model_dir="models/",
    loader=None,
    api=False,
    api_blocking_port=5000,
    api_streaming_port=5005,
    public_api=False,
    public_api_id=None,
    max_seq_len=2048,
    n_ctx=2048,
    cpu=True,
    no_cache=False,
    verbose=False,
    multi_user=True,
    listen=False,
    share=False,
)
model_config, user_config = {}, {}


def add_extension(name):
    known = args.extensions or []
    args.extensions = known if known and "api" in known else [*known, name]


def is_chat():
    return True
