# The pipeline: one rule a notebook, a strict papermill run in `shell:`, then the report.
#   snakemake --cores all --config profile=laptop theory=schwartz10        (or simply: fulcra reproduce)
# A run's folder is runs/<profile>, or runs/<profile>-<theory> under another theory. A rule is rerun
# when its notebook, its settings in the profile, a module it uses, the theory, or an output it reads has changed.
from pathlib import Path

from fulcra_utils.common.paths import DATA, PACKAGE
from fulcra_utils.runs.profiles import DEFAULT_THEORY, list_files, load_profile, modules_of, name_run
from fulcra_utils.theory.theory import load_theory

PROFILE = config.get("profile", "laptop")
THEORY = config.get("theory", DEFAULT_THEORY)
RUN = f"runs/{name_run(PROFILE, THEORY)}"
SETTINGS = load_profile(PROFILE)
THREADS = 1 if PROFILE == "quick" else workflow.cores  # tiny models: a notebook a core; a real training takes them all
COMMAND = f"python -m fulcra_utils.cli run-notebook {{params.name}} --profile {PROFILE} --theory '{THEORY}'"


def of(name, *more):
    """Return what the rule of a notebook reads: notebook, modules, theory, words of refusals, and files named or made."""
    return [f"notebooks/{name}.ipynb", *map(str, modules_of(name)), str(load_theory(THEORY).path),
            f"{DATA}/refusals.yaml", *list_files(SETTINGS["notebooks"].get(name)), *(f"{RUN}/{file}" for file in more)]


def executed(name):
    return f"{RUN}/notebooks/{name}.ipynb"


def settings(name):
    return [SETTINGS["seed"], SETTINGS["notebooks"].get(name)]


def labels():
    """Return the labelled rows that come with the project, and those beside a theory from outside."""
    beside = load_theory(THEORY).labels_path
    return sorted({*map(str, (DATA / "sample").glob("*.jsonl")), *([str(beside)] if beside.is_file() else [])})


THEORIES = sorted(map(str, (DATA / "theories").glob("*.yaml")))
TARGETS = sorted(map(str, (DATA / "targets").glob("*.yaml")))
DECISIONS = Path(f"{RUN}/annotation/decisions.csv")     # of people, where there are any
NAMES = sorted(p.stem for p in Path("notebooks").glob("[0-9][0-9]_*.ipynb"))


rule report:
    input:
        [executed(name) for name in NAMES],
        sorted(map(str, (DATA / "report").iterdir())),
        sorted(map(str, (DATA / "reported").glob("*.csv"))),        # the report judges claims again
        str(PACKAGE / "runs" / "claims.py"),
    output:
        f"{RUN}/report/index.html",
    params:
        name="report",
    threads: THREADS
    shell:
        f"python -m fulcra_utils.cli report --profile {PROFILE} --theory '{THEORY}'"


rule dataset_construction:
    input:
        of("01_dataset_construction", "data/fetched.json"),
        labels(),
        f"{DATA}/splits.csv",
        [str(DECISIONS)] if DECISIONS.is_file() else [],
        [f"{DATA}/dataset_card.md", f"{DATA}/annotation_guide.md"],
        sorted(map(str, (DATA / "contrasts").glob("*.yaml"))),
        sorted(map(str, (DATA / "prompts").iterdir())),
    output:
        executed("01_dataset_construction"),
        [f"{RUN}/data/{name}.parquet" for name in ("dialogues", "items", "scored", "prompts", "preferences", "splits")],
        f"{RUN}/data/queue.csv",
    params:
        name="01_dataset_construction",
        settings=settings("01_dataset_construction"),
    threads: THREADS
    priority: 7
    shell:
        COMMAND


rule value_analysis:
    input:
        of("02_value_analysis", "data/dialogues.parquet", "data/items.parquet", "data/scored.parquet"),
        THEORIES,       # how far the replies tell one from another
        f"{DATA}/risks.yaml",
        f"{DATA}/labels/refusals.csv",
    output:
        executed("02_value_analysis"),
    params:
        name="02_value_analysis",
        settings=settings("02_value_analysis"),
    threads: THREADS
    priority: 6
    shell:
        COMMAND


rule value_evaluator:
    input:
        of("03_value_evaluator", "data/dialogues.parquet", "data/scored.parquet", "data/splits.parquet"),
        THEORIES,       # of the public sets that teach, too
        f"{DATA}/attacks.yaml",
        f"{DATA}/evaluator_card.md",
        TARGETS,
        sorted(map(str, (DATA / "contrasts").iterdir())),       # readings.csv, too
    output:
        executed("03_value_evaluator"),
    params:
        name="03_value_evaluator",
        settings=settings("03_value_evaluator"),
    threads: THREADS
    priority: 5
    shell:
        COMMAND


rule value_alignment:
    input:
        of("04_value_alignment", "data/scored.parquet", "data/preferences.parquet", "data/prompts.parquet"),
        TARGETS,
        executed("03_value_evaluator"),
    output:
        executed("04_value_alignment"),
    params:
        name="04_value_alignment",
        settings=settings("04_value_alignment"),
    threads: THREADS
    priority: 4
    shell:
        COMMAND


rule new_value_theory:
    input:
        of("05_new_value_theory", "data/dialogues.parquet", "data/scored.parquet"),
        THEORIES,
        f"{DATA}/examples/three_virtues.jsonl",
        executed("03_value_evaluator"),
    output:
        executed("05_new_value_theory"),
    params:
        name="05_new_value_theory",
        settings=settings("05_new_value_theory"),
    threads: THREADS
    priority: 3
    shell:
        COMMAND


rule value_compass:
    input:
        of("06_value_compass", "data/dialogues.parquet", "data/scored.parquet"),
        THEORIES,
        TARGETS,
        sorted(map(str, DATA.glob("countries*.yaml"))),
        sorted(map(str, (DATA / "page").iterdir())),
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("06_value_compass"),
        f"{RUN}/report/compass.html",
    params:
        name="06_value_compass",
        settings=settings("06_value_compass"),
    threads: THREADS
    priority: 2
    shell:
        COMMAND


rule social_value_orientation:
    input:
        of("07_social_value_orientation"),
        f"{DATA}/surveys/svo_slider.yaml",
        executed("04_value_alignment"),
    output:
        executed("07_social_value_orientation"),
    params:
        name="07_social_value_orientation",
        settings=settings("07_social_value_orientation"),
    threads: THREADS
    priority: 1
    shell:
        COMMAND


rule value_discovery:
    input:
        of("08_value_discovery", "data/fetched.json", "data/dialogues.parquet", "data/scored.parquet"),
        THEORIES,
        f"{DATA}/discovery.yaml",
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("08_value_discovery"),
    params:
        name="08_value_discovery",
        settings=settings("08_value_discovery"),
    threads: THREADS
    shell:
        COMMAND


rule value_pluralism:
    input:
        of("09_value_pluralism", "data/fetched.json", "data/dialogues.parquet", "data/scored.parquet", "data/queue.csv"),
        THEORIES,
        f"{DATA}/pluralism.yaml",
        f"{DATA}/discovery.yaml",
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("09_value_pluralism"),
    params:
        name="09_value_pluralism",
        settings=settings("09_value_pluralism"),
    threads: THREADS
    shell:
        COMMAND


rule generative_evaluation:
    input:
        of("10_generative_evaluation"),
        f"{DATA}/principles.yaml",
        f"{DATA}/labels/completions.csv",
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("10_generative_evaluation"),
    params:
        name="10_generative_evaluation",
        settings=settings("10_generative_evaluation"),
    threads: THREADS
    shell:
        COMMAND


rule values_in_context:
    input:
        of("11_values_in_context", "data/dialogues.parquet", "data/scored.parquet", "data/prompts.parquet",
           "data/preferences.parquet"),
        f"{DATA}/contexts.yaml",
        TARGETS,
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("11_values_in_context"),
    params:
        name="11_values_in_context",
        settings=settings("11_values_in_context"),
    threads: THREADS
    shell:
        COMMAND


rule reliability:
    input:
        of("12_reliability", "data/fetched.json", "data/dialogues.parquet", "data/scored.parquet"),
        THEORIES,
        TARGETS,
        f"{DATA}/attacks.yaml",
        f"{DATA}/paraphrases.yaml",
        f"{DATA}/reliability.yaml",
        f"{DATA}/surveys/svo_slider.yaml",
        executed("03_value_evaluator"),
        executed("04_value_alignment"),
    output:
        executed("12_reliability"),
    params:
        name="12_reliability",
        settings=settings("12_reliability"),
    threads: THREADS
    shell:
        COMMAND
