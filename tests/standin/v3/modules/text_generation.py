"""Generation as v3.23 does it: one lock lets one reply be made at a time."""

import copy
import html
import random
import traceback

import modules.shared as shared
from modules.callbacks import Iteratorize
from modules.extensions import apply_extensions
from modules.html_generator import generate_basic_html
from modules.utils import check_model_loaded
from standin import generating
from standin.hooks import cut_at_stop, stop_strings
from standin.tensor import Tensor

OWN_SAMPLING = ("LlamaServer", "Exllamav2Model", "Exllamav3Model", "TensorRTLLMModel")
SAMPLING = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "guidance_scale")


def generate_reply(*args, **kwargs):
    with shared.generation_lock:
        yield from _generate_reply(*args, **kwargs)


def _generate_reply(question, state, stopping_strings=None, is_chat=False, escape_html=False, for_ui=False):
    generate_func = apply_extensions("custom_generate_reply")
    if generate_func is None:
        if not check_model_loaded()[0]:
            yield ""
            return
        own = shared.model.__class__.__name__ in OWN_SAMPLING
        generate_func = generate_reply_custom if own else generate_reply_HF

    original_question = question
    if not is_chat:  # a chat has asked these already
        state = apply_extensions("state", state)
        question = apply_extensions("input", original_question, state)

    stops, is_stream = stop_strings(stopping_strings, state["custom_stopping_strings"]), state["stream"]
    shared.stop_everything = False
    if stops and not is_stream:
        state = copy.deepcopy(state) | {"stream": True}
    reply = yield from generating.streamed(
        generate_func(question, original_question, state, stopping_strings, is_chat=is_chat),
        stops,
        cut=apply_stopping_strings,
        stream=is_stream,
        halted=lambda: state["max_tokens_second"] > 0 and shared.stop_everything,
        escape="after" if escape_html else "",
    )
    yield reply if is_chat else apply_extensions("output", reply, state)


def encode(prompt, add_special_tokens=True, add_bos_token=True, truncation_length=None):
    if shared.tokenizer is None:
        raise ValueError("no tokenizer is loaded")
    loader, bos = shared.model.__class__.__name__, shared.tokenizer.bos_token_id
    if loader == "LlamaServer":
        ids = Tensor([shared.tokenizer.encode(str(prompt), add_bos_token=add_bos_token)])
    elif loader in OWN_SAMPLING:
        ids = shared.tokenizer.encode(str(prompt))
    else:
        row = shared.tokenizer.encode(str(prompt), return_tensors="pt", add_special_tokens=add_special_tokens)[
            0
        ].tolist()
        if add_bos_token and row[:1] != [bos]:
            row = [bos, *row]
        while row[:2] == [bos, bos]:
            row = row[1:]
        ids = Tensor([row])
    return ids if truncation_length is None else ids[:, -truncation_length:]


def decode(output_ids, skip_special_tokens=True):
    if shared.tokenizer is None:
        raise ValueError("no tokenizer is loaded")
    return shared.tokenizer.decode(output_ids, skip_special_tokens=skip_special_tokens)


def get_encoded_length(prompt):
    asked = apply_extensions("tokenized_length", prompt)
    return len(encode(prompt)[0]) if asked is None else asked


def get_max_prompt_length(state):
    return state["truncation_length"] - state["max_new_tokens"]


def generate_reply_wrapper(question, state, stopping_strings=None):
    before = "" if shared.is_seq2seq else question
    yield formatted_outputs(before, shared.model_name)
    for reply in generate_reply(question, state, stopping_strings, is_chat=False, escape_html=True, for_ui=True):
        yield formatted_outputs(before + reply, shared.model_name)


def formatted_outputs(reply, model_name):
    return html.unescape(reply), generate_basic_html(reply)


def set_manual_seed(seed):
    return random.randint(1, 2**31) if int(seed) == -1 else int(seed)


def stop_everything_event():
    shared.stop_everything = True


def apply_stopping_strings(reply, all_stop_strings):
    return cut_at_stop(reply, all_stop_strings)


def get_reply_from_output_ids(output_ids, state=None, starting_from=0):
    return decode(output_ids[starting_from:], state["skip_special_tokens"] if state else True)


def generate_reply_HF(question, original_question, state, stopping_strings=None, is_chat=False):
    from modules.transformers_loader import Stream, _StopEverythingStoppingCriteria

    set_manual_seed(state["seed"])
    wanted = {name: state[name] for name in SAMPLING if name in state}
    if state["negative_prompt"] != "":
        wanted["negative_prompt_ids"] = encode(state["negative_prompt"])
    input_ids = encode(question, add_bos_token=state["add_bos_token"], truncation_length=get_max_prompt_length(state))
    if state["auto_max_new_tokens"]:
        wanted["max_new_tokens"] = state["truncation_length"] - input_ids.shape[-1]

    question, input_ids, inputs_embeds = apply_extensions("tokenizer", state, question, input_ids, None)
    wanted["inputs"] = input_ids
    if inputs_embeds is not None:
        wanted["inputs_embeds"] = inputs_embeds
    processors = state.get("logits_processor", [])
    apply_extensions("logits_processor", processors, input_ids)
    wanted.update(stopping_criteria=[_StopEverythingStoppingCriteria()], logits_processor=processors)
    yield from generating.by_tokens(
        shared,
        wanted,
        generating.Growing(
            lambda output, begin: get_reply_from_output_ids(output, state, starting_from=begin),
            0 if shared.is_seq2seq else len(input_ids[0]),
        ),
        (Iteratorize, Stream) if state["stream"] else None,
        not is_chat and not shared.is_seq2seq,
        traceback.print_exc,
    )


def generate_reply_custom(question, original_question, state, stopping_strings=None, is_chat=False):
    own = copy.deepcopy(state)
    own["seed"] = set_manual_seed(own["seed"])
    replies = generating.by_own_sampling(shared.model, question, own, not is_chat, traceback.print_exc)
    reply = yield from generating.kept(replies)
    if not hasattr(shared.model, "last_prompt_token_count"):
        encode(original_question + reply)  # counted for the log, of the question as asked
