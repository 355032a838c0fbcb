"""What the host's modules share."""

import copy
from argparse import Namespace

from modules.paths import resolve_user_data_dir
from standin.turns import ALPACA, TRANSCRIPT

user_data_dir = resolve_user_data_dir()

model = None
tokenizer = None
model_name = "None"
is_seq2seq = False
is_multimodal = False
lora_names = []
bos_token = "<s>"
eos_token = "</s>"

stop_everything = False
generation_lock = None
processing_message = ""

gradio = {}
persistent_interface_state = {}
need_restart = False

settings = {
    "start_with": "",
    "mode": "instruct",
    "chat_style": "cai-chat",
    "max_new_tokens": 512,
    "seed": -1,
    "negative_prompt": "",
    "truncation_length": 8192,
    "custom_stopping_strings": "",
    "auto_max_new_tokens": False,
    "max_tokens_second": 0,
    "ban_eos_token": False,
    "add_bos_token": True,
    "skip_special_tokens": True,
    "stream": True,
    "name1": "You",
    "name2": "AI",
    "user_bio": "",
    "context": "The following is a conversation with an AI.",
    "greeting": "How can I help you today?",
    "character": "Assistant",
    "custom_system_message": "",
    "instruction_template_str": ALPACA,
    "chat_template_str": TRANSCRIPT,
    "chat-instruct_command": 'Continue the chat dialogue below. Write a reply for "<|character|>".\n\n<|prompt|>',
    "default_extensions": [],
}
default_settings = copy.deepcopy(settings)

args = Namespace(
    extensions=None,
    model=None,
    model_dir=str(user_data_dir / "models"),
    loader=None,
    api=False,
    public_api=False,
    nowebui=False,
    portable=False,
    ctx_size=0,
    parallel=1,
    idle_timeout=0,
    chat_template_file=None,
    cpu=True,
    no_cache=False,
    verbose=False,
    multi_user=True,
    listen=False,
    api_key="",
    admin_key="",
)
user_config = {}


def is_chat():
    return True
