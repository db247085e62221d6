"""The commands ``export`` and ``verify``: ONNX models, written and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nbgather.apps.commands.terminal import Debug

#: Where help lists the options of one model.
MASKING: dict[str, Any] = {"rich_help_panel": "One masking model"}


def export(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The folder for the published models (default: onnx_models); with any option of"
            " the masking, or a name that ends in .onnx, the file for that one model.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Write this model alone; may be given again.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if a file is stale.")
    ] = False,
    ratio: Annotated[
        float | None, typer.Option(help="The part to remove, 0 to 1 (0.75).", **MASKING)
    ] = None,
    ratio_input: Annotated[
        bool | None, typer.Option("--ratio-input", help="Take the ratio as an input.", **MASKING)
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="Scores as an `input`, or drawn by `seed` (input).", **MASKING),
    ] = None,
    seed_words: Annotated[
        bool | None,
        typer.Option("--seed-words", help="Seeds and ids of 64 bits, as words of 32.", **MASKING),
    ] = None,
    optional_epoch: Annotated[
        bool | None,
        typer.Option("--optional-epoch", help="The epoch is 0 where none is given.", **MASKING),
    ] = None,
    gather: Annotated[
        str | None,
        typer.Option(help="What takes the tokens: `elements` or `nd` (elements).", **MASKING),
    ] = None,
    mask_only: Annotated[
        bool | None, typer.Option("--mask-only", help="No tokens, the mask alone.", **MASKING)
    ] = None,
    ids_keep: Annotated[
        bool | None, typer.Option("--ids-keep", help="Give ids_keep too.", **MASKING)
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of x (float32).", **MASKING)] = None,
    noise_dtype: Annotated[
        str | None, typer.Option(help="Of the noise (float32).", **MASKING)
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX's operators (17, or 18 with a seed).", **MASKING)
    ] = None,
    ir_version: Annotated[int | None, typer.Option(help="The file format (8).", **MASKING)] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="What the model is verified on (onnxruntime); may be given again.", **MASKING
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the published ONNX models, the same bytes every time, or one masking model.

    One model is verified before it is written; its card is printed, and kept in its metadata.
    """
    from nbgather.onnx import export_all, export_model, masking_model, stale_files

    given = {
        "mask_ratio": ratio, "ratio_input": ratio_input, "noise": noise,
        "seed_words": seed_words, "optional_epoch": optional_epoch, "gather": gather,
        "with_x": None if mask_only is None else not mask_only, "ids_keep": ids_keep,
        "dtype": dtype, "noise_dtype": noise_dtype, "opset": opset, "ir_version": ir_version,
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options or runtime or (out is not None and out.suffix == ".onnx"):
        if check or only:
            raise ValueError("--check and --only are of the published models, not of one masking")
        if ratio is not None and ratio_input:
            raise ValueError(f"--ratio is {ratio} beside --ratio-input: one of them is needed")
        if out is None:
            raise ValueError("-o is not given: the file for the model is needed")
        model = masking_model(**options)
        with Console(stderr=True).status("verifying the model"):
            card = export_model(model, out, runtimes=runtime or ["onnxruntime"])
        typer.echo(f"wrote {out} ({out.stat().st_size:,} bytes)")
        for name, text in card.items():
            typer.echo(f"{name + ':':<10}{text}")
        return
    folder = Path("onnx_models") if out is None else out
    if check:
        lines = stale_files(folder)
        typer.echo("\n".join(lines) if lines else f"{folder} is up to date")
        raise typer.Exit(1 if lines else 0)
    for path in export_all(folder, only):
        typer.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")


def verify(
    model: Annotated[
        Path, typer.Argument(help="An ONNX model: masking, restoring, gather, segments or bags.")
    ],
    ratio: Annotated[
        float | None,
        typer.Option(help="The mask ratio; by default what the model tells, or 0.75."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="The gather's dim; by default what the model tells.")
    ] = None,
    reduce: Annotated[
        str | None,
        typer.Option(help="What segments or bags become; by default what the model tells."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="What the model calls a thing, OURS=THEIRS; may be given again."),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            help="What runs the model: onnxruntime, openvino, tract, opencv, mnn, iree, tvm, or"
            " onnx for its ReferenceEvaluator."
        ),
    ] = "onnxruntime",
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    debug: Debug = False,
) -> None:
    """Compare a model with the reference, byte for byte, over hundreds of shapes.

    Exit status 1 at the first difference; 2 where the runtime is not installed or refuses the
    model.
    """
    from nbgather.onnx import verify as compare

    pairs = [pair.partition("=") for pair in name or []]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError(f"--name is {', '.join(name or [])}: OURS=THEIRS is needed")
    names = {ours: theirs for ours, _, theirs in pairs}
    with Console(stderr=True).status("running the model and the reference"):
        told: dict[str, Any] = {"mask_ratio": ratio, "dim": dim, "reduce": reduce}
        result = compare(model, **told, names=names, runtime=runtime)
    if as_json:
        typer.echo(json.dumps(result._asdict() | {"same": result.same}))
        raise typer.Exit(0 if result.same else 1)
    if result.difference is not None:
        typer.echo(
            f"{model}, {result.kind}: DIFFERENT on {result.runtime} in case {result.cases},"
            f" {result.difference}"
        )
        raise typer.Exit(1)
    typer.echo(
        f"{model}, {result.kind}: {result.cases} cases equal to the reference on {result.runtime}"
    )
