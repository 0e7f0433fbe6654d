"""`onnxopt lint`: what is wrong with a quantized model, and what of it runs in integers?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit
from onnxopt.errors import BadInput

if TYPE_CHECKING:
    from onnxopt.report.linting import Linting


@click.command("lint", short_help="Find and repair what is wrong with a quantized model.")
@options.model_path("model")
@click.option("--fix", is_flag=True, help="Repair what can be repaired without data.")
@click.option("-o", "--output", metavar="PATH", help="Where --fix writes the repaired model.")
@options.overwrite
@options.output
def command(
    model: str, fix: bool, output: str | None, overwrite: bool, quiet: bool, as_json: bool
) -> int:
    """List what is wrong with the Q/DQ pairs and codes of MODEL, whatever tool made it.

    Misplaced pairs, scales along a wrong axis, wrong bias scales, int8 where the CPU needs uint8,
    sums that can overflow 16 bits, and pairs that only cost time. Exits with 1 if faults are left.
    """
    if fix != (output is not None):
        raise BadInput(
            "--fix and -o belong together", hint="say where to write: `--fix -o REPAIRED.onnx`"
        )
    found = _linted(model, output, overwrite)
    from onnxopt.report.linting import linting_page

    emit(found, lambda: linting_page(found), as_json=as_json, quiet=quiet)
    return 1 if found.open else 0


def _linted(model: str, output: str | None, overwrite: bool) -> Linting:
    from onnxopt import io
    from onnxopt.errors import RuntimeFailed
    from onnxopt.quantize.lint import lint
    from onnxopt.quantize.proof import Proof, prove
    from onnxopt.quantize.repair import fix
    from onnxopt.report.linting import Linting

    def proof_of(source: io.Source) -> tuple[Proof | None, str]:
        try:
            return prove(source), ""
        except RuntimeFailed as error:
            return None, error.message

    loaded = io.load(model)
    if output is None:
        proof, note = proof_of(loaded)
        return Linting(model, lint(loaded), proof, note=note)
    io.check_target(loaded, output, overwrite=overwrite)
    proof, note = proof_of(loaded)
    repaired = fix(loaded)
    after, complaint = proof_of(repaired.model)
    if after is None and proof is not None:
        raise RuntimeFailed(
            f"the repaired model does not load: {complaint}", hint="nothing was written"
        )
    io.save(repaired.model, output, overwrite=overwrite)
    faults = lint(loaded)
    return Linting(model, faults, proof, repaired.fixed, repaired.left, after, output, note)
