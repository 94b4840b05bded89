"""Writes tests/features/golden: small dictionaries by their own libraries, and what these compute.

Not a test. Once, in an environment with torch 2.13, sae-lens 6.54, eai-sparsify 1.3 and
dictionary-learning 0.1:

    python tests/features/make_golden.py tests/features/golden

(with SPARSIFY_DISABLE_TRITON=1 where there is no GPU). A case is a folder with the library's files,
and an `.npz` of that name: activations `x`, the library's latents `f` and reconstruction `y` for
them, and `length`, how long one unit of a latent is in the output, read off the library's decoder.
So `f * length` are the latents of a dictionary with a unit decoder, whatever the layout.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from golden_layouts import write_layouts

D, N, T = 12, 24, 9


def tensor(rng, *shape, scale=1.0):
    return torch.tensor(scale * rng.standard_normal(shape), dtype=torch.float32)


def shake(module, seed, scale=0.6):
    """Every weight random, no decoder row of unit length, every bias away from 0."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, part in module.named_parameters():
            if "threshold" in name:
                part.copy_(tensor(rng, *part.shape).abs() * scale)
            else:
                part.copy_(tensor(rng, *part.shape, scale=scale))


def activations(*shape, seed=0):
    return tensor(np.random.default_rng(seed), *shape, scale=2.0) + 0.5


def expected(folder, x, f, y, length):
    arrays = {"x": x, "f": f, "y": y, "length": length}
    np.savez(f"{folder}.npz", **{k: v.detach().float().numpy() for k, v in arrays.items()})


def rows(decode, n=N):
    """How long one unit of each latent is in the output, by a decoder that is affine."""
    return (decode(torch.eye(n)) - decode(torch.zeros(1, n))).norm(dim=-1)


def saelens(out):
    from sae_lens.registry import get_sae_class

    plain = {
        "standard": ("standard", {}),
        "standard_b_dec_apart": ("standard", {"apply_b_dec_to_input": False}),
        "gated": ("gated", {}),
        "topk": ("topk", {"k": 5}),
        "topk_rescaled": ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("jumprelu", {}),
        "layer_norm": ("standard", {"normalize_activations": "layer_norm"}),
        "constant_norm": ("topk", {"k": 4, "normalize_activations": "constant_norm_rescale"}),
        "transcoder": ("transcoder", {"d_out": 8}),
        "skip_transcoder": ("skip_transcoder", {"d_out": 8}),
        "jumprelu_transcoder": ("jumprelu_transcoder", {"d_out": 8}),
        "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", {"d_out": 8}),
    }
    for seed, (case, (kind, settings)) in enumerate(plain.items()):
        make, config = get_sae_class(kind)
        trans = "transcoder" in kind
        names = {"hook_name": "blocks.3.hook_resid_post"}
        if trans:
            names = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}
            settings = {"apply_b_dec_to_input": False, **settings}
        sae = make(config(d_in=D, d_sae=N, **settings))
        describe(sae, names)
        shake(sae, seed)
        save_saelens(out / f"saelens_{case}", sae, activations(T, D, seed=seed))


def describe(sae, names):
    for key, value in {
        "model_name": "tiny",
        "prepend_bos": True,
        "context_size": 64,
        **names,
    }.items():
        sae.cfg.metadata[key] = value


def save_saelens(folder, sae, x, save=None):
    (save or sae.save_model)(folder)
    f, y = sae.encode(x), sae(x)
    length = sae.W_dec.norm(dim=-1)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        length = torch.ones(N)
    expected(folder, x.flatten(1) if x.ndim == 3 else x, f, y.flatten(1), length)


def saelens_special(out):
    """hook_z, a factor folded by the library itself, files of before version 6, trainers' files."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class, get_sae_training_class

    make, config = get_sae_class("standard")
    sae = make(config(d_in=D, d_sae=N, reshape_activations="hook_z"))
    sae.cfg.metadata.hook_name = "blocks.2.attn.hook_z"
    shake(sae, 40)
    save_saelens(out / "saelens_hook_z", sae, activations(T, 3, D // 3, seed=40))

    for case, kind in (("average", "standard"), ("average_jumprelu", "jumprelu")):
        make, config = get_sae_class(kind)
        sae = make(config(d_in=D, d_sae=N, normalize_activations="expected_average_only_in"))
        describe(sae, {"hook_name": "blocks.1.hook_resid_pre"})
        shake(sae, 41)
        folder = out / f"saelens_{case}"
        sae.save_model(folder)
        sae.fold_activation_norm_scaling_factor(0.37)
        x = activations(T, D, seed=41)
        expected(folder, x, sae.encode(x), sae(x), sae.W_dec.norm(dim=-1))

    for case in ("batchtopk", "matryoshka_batchtopk"):
        make, config = get_sae_training_class(case)
        extra = {"matryoshka_widths": [8, N]} if "matry" in case else {}
        sae = make(config(d_in=D, d_sae=N, k=4, **extra))
        describe(sae, {"hook_name": "blocks.1.hook_mlp_out"})
        shake(sae, 42)
        sae.topk_threshold = torch.tensor(0.8, dtype=torch.float64)
        sae.save_inference_model(out / f"saelens_{case}")
        loaded = SAE.load_from_disk(out / f"saelens_{case}")
        save_saelens(out / f"saelens_{case}", loaded, activations(T, D, seed=42), lambda f: None)

    for case, changes in {
        "old": {"activation_fn_str": "relu", "normalize_activations": False},
        "old_topk": {
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": 3},
            "normalize_activations": "none",
        },
    }.items():
        folder = out / f"saelens_{case}"
        shutil.copytree(out / "saelens_standard", folder)
        old = {
            "d_in": D,
            "d_sae": N,
            "dtype": "float32",
            "model_name": "gpt2-small",
            "hook_point": "blocks.5.hook_resid_pre",
            "hook_point_layer": 5,
            "hook_point_head_index": None,
            "context_size": 128,
            **changes,
        }
        (folder / "cfg.json").write_text(json.dumps(old))
        save_saelens(folder, SAE.load_from_disk(folder), activations(T, D, seed=43), lambda f: None)


def sparsify(out):
    from sparsify import SparseCoder, SparseCoderConfig

    for seed, (case, hook, settings) in enumerate(
        [
            ("sparsify_topk", "layers.5", {"normalize_decoder": True}),
            ("sparsify_loose", "layers.5.mlp", {"normalize_decoder": False}),
            ("sparsify_groupmax", "layers.0", {"activation": "groupmax"}),
            ("sparsify_skip", "layers.5.mlp", {"transcode": True, "skip_connection": True}),
        ]
    ):
        coder = SparseCoder(D, SparseCoderConfig(expansion_factor=2, k=4, **settings))
        shake(coder, 60 + seed)
        folder = out / case
        coder.save_to_disk(folder / hook)
        (folder / "config.json").write_text(json.dumps({"model": "tiny", "ctx_len": 64}))
        x = activations(T, D, seed=seed)
        acts, index, _ = coder.encode(x)
        f = torch.zeros(T, N).scatter_(1, index, acts)
        expected(folder, x, f, coder(x).sae_out, coder.W_dec.norm(dim=-1))


def dictionary_learning(out):
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    cases = {
        "AutoEncoder": lambda: dictionary.AutoEncoder(D, N),
        "AutoEncoderNew": lambda: dictionary.AutoEncoderNew(D, N),
        "GatedAutoEncoder": lambda: dictionary.GatedAutoEncoder(D, N),
        "JumpReluAutoEncoder": lambda: dictionary.JumpReluAutoEncoder(D, N),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D, N, 5),
        "BatchTopKSAE": lambda: BatchTopKSAE(D, N, 5),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, N, 5, [8, 16]),
    }
    for seed, (name, make) in enumerate(cases.items()):
        torch.manual_seed(seed)
        ae = make()
        shake(ae, 80 + seed)
        if hasattr(ae, "threshold") and ae.threshold.ndim == 0:
            ae.threshold.fill_(0.7)
        folder = out / f"dictionary_learning_{name}"
        folder.mkdir(parents=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "layer": 8, "lm_name": "tiny", "k": 5}
        trainer |= {"submodule_name": "resid_post_layer_8"}
        config = {"trainer": trainer, "buffer": {"ctx_len": 64}}
        (folder / "config.json").write_text(json.dumps(config))
        x = activations(T, D, seed=seed)
        expected(folder, x, ae.encode(x), ae(x), rows(ae.decode))


def main(out):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with torch.no_grad():
        saelens(out)
        saelens_special(out)
        sparsify(out)
        dictionary_learning(out)
        write_layouts(out)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(list(out.glob('*.npz')))} cases, {total / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
