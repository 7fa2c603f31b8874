# The rules of one paper, made from its experiments.yaml: a module of the Snakefile for each.

PAPER = config.pop("paper")


include: "setup.smk"


with dag.plain_errors():
    jobs = dag.load_jobs(PAPER, SCALE)


def run(wildcards):
    """What of a run its files' names tell."""
    return wildcards.experiment, wildcards.case, wildcards.arm


rule:
    name:
        PAPER
    input:
        jobs.products(),


rule:
    name:
        f"{PAPER}_run"
    input:
        # Editing code does not throw away GPU-days: the report marks records of other code.
        # To repeat them: snakemake -R <paper>_run
        program=ancient(f"{jobs.folder}/train.py"),
        needed=lambda wildcards: jobs.needed(*run(wildcards)),
    output:
        record=f"{jobs.results}/{{experiment}}/{{case}}/{{arm}}/seed{{seed}}/record.json",
    log:
        f"logs/{SCALE}/{PAPER}/{{experiment}}/{{case}}/{{arm}}/seed{{seed}}.log",
    wildcard_constraints:
        experiment="|".join(jobs.paper.experiments),
        case=jobs.names("cases"),
        arm=jobs.names("arms"),
        seed=r"\d+",
    conda:
        "envs/reproductions.yaml"
    threads: lambda wildcards: jobs.resource(wildcards.experiment, wildcards.case, "threads")
    resources:
        gpu=lambda wildcards: jobs.resource(wildcards.experiment, wildcards.case, "gpu"),
        mem_mb=lambda wildcards: jobs.resource(
            wildcards.experiment, wildcards.case, "mem_mb"
        ),
        runtime=lambda wildcards: jobs.resource(
            wildcards.experiment, wildcards.case, "runtime"
        ),
    params:
        scale=SCALE,
        settings=lambda wildcards: jobs.settings(*run(wildcards)),
    shell:
        "python {input.program} {wildcards.experiment} --case {wildcards.case}"
        " --arm {wildcards.arm} --seed {wildcards.seed} --scale {params.scale} > {log} 2>&1"


for target, body in jobs.paper.targets.items():

    rule:
        name:
            f"{PAPER}_{target}"
        input:
            records=jobs.records(*body.experiments),
            published=f"{jobs.folder}/published.csv",
            drawing=jobs.drawn_by(body.kind),
        output:
            **{
                suffix: (
                    report(
                        path,
                        caption=f"report/{body.kind}.rst",
                        category=jobs.paper.title,
                        subcategory=f"{body.kind.title()}s",
                        labels={"name": target, "title": body.title},
                    )
                    if suffix in ("csv", "png", "html")
                    else path
                )
                for suffix, path in jobs.rendered(target).items()
            },
        log:
            f"logs/{SCALE}/{PAPER}/{target}.log",
        conda:
            "envs/reproductions.yaml"
        resources:
            gpu=0,
            mem_mb=2000,
            runtime=10,
        params:
            scale=SCALE,
            kind=body.kind,
            paper=PAPER,
            target=target,
            layout=jobs.layout(target),
            title=body.title,
            source=body.source,
            note=body.note,
        shell:
            "python -m common.results {params.kind} {params.paper} {params.target}"
            " --scale {params.scale} > {log} 2>&1"


if jobs.has_claims:

    rule:
        name:
            f"{PAPER}_claims"
        input:
            records=jobs.claim_records(),
            claims=jobs.claims_file,
            judging=dag.loaded_files("common.results.claims"),
        output:
            f"{jobs.results}/claims.json",
        log:
            f"logs/{SCALE}/{PAPER}/claims.log",
        conda:
            "envs/reproductions.yaml"
        resources:
            gpu=0,
            mem_mb=2000,
            runtime=10,
        params:
            scale=SCALE,
            paper=PAPER,
        shell:
            "python -m common.results claims {params.paper}"
            " --scale {params.scale} > {log} 2>&1"


for benchmark, title in jobs.paper.benchmarks.items():

    rule:
        name:
            f"{PAPER}_benchmark_{benchmark}"
        input:
            program=ancient(f"{jobs.folder}/benchmarks/ratios.py"),
        output:
            jobs.benchmark(benchmark),
        log:
            f"logs/{SCALE}/{PAPER}/benchmark_{benchmark}.log",
        conda:
            "envs/reproductions.yaml"
        # All cores: a timing beside other jobs would measure those. A cluster has no number of them,
        # and workflow.cores then raises.
        threads: workflow.global_resources["_cores"].value or 1
        resources:
            gpu=0,
            mem_mb=4000,
            runtime=30,
        params:
            scale=SCALE,
            paper=PAPER,
            benchmark=benchmark,
            title=title,
        shell:
            # Beside its peers in a process of its own, not in a fork of the warm one.
            "command python -m common.results benchmark {params.paper} {params.benchmark}"
            " --scale {params.scale} > {log} 2>&1"


rule:
    name:
        f"{PAPER}_benchmarks"
    input:
        [jobs.benchmark(name) for name in jobs.paper.benchmarks],
