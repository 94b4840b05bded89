"""Writers of the published layouts whose own libraries cannot be installed, as documented.

Used by make_golden.py. Where SAELens has a loader of the layout, what is expected is what SAELens
computes from these files; of Llama Scope, whose loader there differs from the official one, it is
the published formula, in float64.
"""

import json

import numpy as np
import torch
from safetensors.torch import save_file

D, N, T = 12, 24, 9


def draw(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {
        name: torch.tensor(0.6 * rng.standard_normal(shape), dtype=torch.float32)
        for name, shape in shapes.items()
    }


def inputs(seed):
    rng = np.random.default_rng(seed)
    return torch.tensor(2.0 * rng.standard_normal((T, D)) + 0.5, dtype=torch.float32)


def store(case, x, f, y, length):
    arrays = {"x": x, "f": f, "y": y, "length": length}
    np.savez(f"{case}.npz", **{k: np.asarray(v, np.float32) for k, v in arrays.items()})


def through_saelens(case, folder, loader, repo, inside, changes, seed):
    """What SAELens computes once its loader, given our files for the hub's, has read them."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def here(repo_id=None, filename=None, subfolder=None, **_):
        return str(folder / "/".join(part for part in (subfolder, filename) if part))

    def shapes(repo_id, filename):
        return {
            k: list(v.shape)
            for k, v in loaders.load_safetensors_weights(here(None, filename)).items()
        }

    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = here, shapes
    overrides = {"device": "cpu", "dtype": "float32", **changes}

    def converter(path, device, cfg_overrides):
        config, state, _ = getattr(loaders, loader)(repo, inside, "cpu", False, overrides)
        return config, state

    sae = SAE.load_from_disk(folder, converter=converter)
    x = inputs(seed)
    seen = x.reshape(T, 3, D // 3) if sae.hook_z_reshaping_mode else x
    store(case, x, sae.encode(seen), sae(seen).flatten(1), sae.W_dec.norm(dim=-1))


def gemma_scope(out):
    sizes = {"d_in": D, "d_sae": N}
    for seed, (case, repo, inside, loader, extra) in enumerate(
        [
            ("res", "gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", "gemma_2_sae", {}),
            ("mlp", "gemma-scope-2b-pt-mlp", "layer_5/width_16k/average_l0_38", "gemma_2_sae", {}),
            ("att", "gemma-scope-9b-it-att", "layer_9/width_16k/average_l0_50", "gemma_2_sae", {}),
            (
                "transcoder",
                "gemma-scope-2b-pt-transcoders",
                "layer_2/width_16k/average_l0_49",
                "gemma_2_transcoder",
                {"d_out": D},
            ),
        ]
    ):
        parts = draw(100 + seed, W_enc=(D, N), W_dec=(N, D), b_enc=N, b_dec=D, threshold=N)
        parts["threshold"] = parts["threshold"].abs()
        folder = out / f"gemma_scope_{case}"
        (folder / repo / inside).mkdir(parents=True)
        arrays = {name: part.numpy() for name, part in parts.items()}
        np.savez(folder / repo / inside / "params.npz", **arrays)
        loader = f"{loader}_huggingface_loader"
        through_saelens(folder, folder / repo, loader, repo, inside, {**sizes, **extra}, seed)


def gemma_scope_2(out):
    repo = "gemma-scope-2-270m-pt"
    for seed, (case, inside, hooks) in enumerate(
        [
            ("resid", "resid_post/layer_5_width_16k_l0_small", ("model.layers.5.output", None)),
            (
                "transcoder",
                "transcoder/layer_5_width_16k_l0_small_affine",
                (
                    "model.layers.5.pre_feedforward_layernorm.output",
                    "model.layers.5.post_feedforward_layernorm.output",
                ),
            ),
        ]
    ):
        parts = draw(110 + seed, w_enc=(D, N), w_dec=(N, D), b_enc=N, b_dec=D, threshold=N)
        parts["threshold"] = parts["threshold"].abs()
        if hooks[1]:
            parts |= draw(119, affine_skip_connection=(D, D))
        folder = out / f"gemma_scope_2_{case}" / repo
        (folder / inside).mkdir(parents=True)
        save_file(parts, folder / inside / "params.safetensors")
        config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt"}
        config |= {"hf_hook_point_in": hooks[0], "affine_connection": bool(hooks[1])}
        config |= {"hf_hook_point_out": hooks[1] or hooks[0]}
        (folder / inside / "config.json").write_text(json.dumps(config))
        loader = "gemma_3_sae_huggingface_loader"
        through_saelens(folder.parent, folder, loader, f"google/{repo}", inside, {}, seed)


def llama_scope(out):
    """Published JumpReLU files: scales and decoder lengths go in, then the one threshold."""
    for seed, (case, length_in, length_out, hooks) in enumerate(
        [
            ("res", 10.8125, 10.8125, ("blocks.15.hook_resid_post",) * 2),
            ("transcoder", 8.5, 2.25, ("blocks.15.ln2.hook_normalized", "blocks.15.hook_mlp_out")),
        ]
    ):
        parts = draw(120 + seed, **{"encoder.weight": (N, D), "encoder.bias": N})
        parts |= draw(130 + seed, **{"decoder.weight": (D, N), "decoder.bias": D})
        parts = {name: part.bfloat16() for name, part in parts.items()}
        folder = out / f"llama_scope_{case}" / "Llama3_1-8B-Base-L15R-8x"
        (folder / "checkpoints").mkdir(parents=True)
        save_file(parts, folder / "checkpoints" / "final.safetensors")
        hyper = {
            "hook_point_in": hooks[0],
            "hook_point_out": hooks[1],
            "d_model": D,
            "d_sae": N,
            "act_fn": "jumprelu",
            "jump_relu_threshold": 0.35546875,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": length_in, "out": length_out},
            "sparsity_include_decoder_norm": True,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "use_glu_encoder": False,
            "top_k": 50,
        }
        (folder / "hyperparams.json").write_text(json.dumps(hyper))
        w, b, d, bias = (part.double().numpy() for part in parts.values())
        s_in, s_out = np.sqrt(D) / length_in, np.sqrt(D) / length_out
        b, bias, d = b / s_in, bias / s_out, d * s_in / s_out
        length = np.linalg.norm(d, axis=0)
        x = inputs(seed)
        pre = (x.double().numpy() @ w.T + b) * length
        f = np.where(pre > hyper["jump_relu_threshold"], pre, 0)
        store(folder.parent, x, f, f @ (d / length).T + bias, np.ones(N))


def llama_scope_distill(out):
    """A trained threshold a latent, of the score `pre * length`, on activations times a factor."""
    parts = draw(140, **{"encoder.weight": (N, D), "encoder.bias": N, "decoder.weight": (D, N)})
    parts |= draw(141, **{"decoder.bias": D, "log_jumprelu_threshold": N})
    folder = out / "llama_scope_distill" / "L5R"
    folder.mkdir(parents=True)
    save_file(parts, folder / "sae_weights.safetensors")
    hook = "blocks.5.hook_resid_post"
    config = {"hook_point_in": hook, "hook_point_out": hook, "d_model": D, "expansion_factor": 2}
    config |= {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    config |= {"sparsity_include_decoder_norm": True}
    (folder / "config.json").write_text(json.dumps(config))
    named = {name: part.double().numpy() for name, part in parts.items()}
    x, scale = inputs(7), 0.61
    pre = x.double().numpy() * scale @ named["encoder.weight"].T + named["encoder.bias"]
    length = np.linalg.norm(named["decoder.weight"], axis=0)
    f = np.where(pre * length > np.exp(named["log_jumprelu_threshold"]), np.maximum(pre, 0), 0)
    y = (f @ named["decoder.weight"].T + named["decoder.bias"]) / scale
    store(folder.parent, x, f, y, length / scale)


def goodfire(out):
    folder = out / "goodfire"
    folder.mkdir()
    parts = draw(150, **{"encoder_linear.weight": (N, D), "encoder_linear.bias": N})
    parts |= draw(151, **{"decoder_linear.weight": (D, N), "decoder_linear.bias": D})
    name = "Llama-3.1-8B-Instruct-SAE-l19"
    torch.save(parts, folder / f"{name}.pth")
    sizes = {"d_in": D, "d_sae": N}
    loader = "get_goodfire_huggingface_loader"
    through_saelens(folder, folder, loader, f"Goodfire/{name}", f"{name}.pth", sizes, 8)


def qwen_scope(out):
    repo = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    folder = out / "qwen_scope" / repo
    folder.mkdir(parents=True)
    parts = draw(160, W_enc=(N, D), W_dec=(D, N), b_enc=N, b_dec=D)
    torch.save(parts, folder / "layer7.sae.pt")
    loader, sizes = "qwen_scope_sae_huggingface_loader", {"d_in": D, "d_sae": N}
    through_saelens(folder.parent, folder, loader, f"Qwen/{repo}", "layer7.sae.pt", sizes, 9)


def circuit_tracer(out):
    folder = out / "circuit_tracer"
    folder.mkdir()
    parts = draw(170, W_enc=(N, D), W_dec=(N, D), b_enc=N, b_dec=D)
    save_file(parts, folder / "layer_4.safetensors")
    (folder / "config.yaml").write_text(
        'model_name: "Qwen/Qwen3-4B"\nfeature_input_hook: "mlp.hook_in"\n'
        'feature_output_hook: "hook_mlp_out"\n'
    )
    size = f"d_model:\n  value: {D}\nd_feature:\n  value: {N}\nbatch_size:\n  value: 64\n"
    (folder / "wandb-config.yaml").write_text(size)
    loader = "mwhanna_transcoder_huggingface_loader"
    through_saelens(
        folder, folder, loader, "mwhanna/qwen3-4b-transcoders", "layer_4.safetensors", {}, 10
    )


def write_layouts(out):
    gemma_scope(out)
    gemma_scope_2(out)
    llama_scope(out)
    llama_scope_distill(out)
    goodfire(out)
    qwen_scope(out)
    circuit_tracer(out)
