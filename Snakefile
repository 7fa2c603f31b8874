# Every table, figure and claim of every paper, and the report.
#
#   snakemake                                the report and all that it shows
#   snakemake <paper>                        one paper
#   snakemake <paper>_<table or figure>      one target
#   snakemake benchmarks                     the benchmarks (run `snakemake report` after them)
#   snakemake house_time                     where processor time went (and then `snakemake report`)
#   --config scale=smoke|laptop|paper        default: laptop
#
# Papers are found in papers/*/experiments.yaml; nothing is listed here.


include: "workflow/setup.smk"


from common.experiments.schema import find_papers


report: "workflow/report/workflow.rst"


with dag.plain_errors():
    papers = [dag.load_jobs(folder.name, SCALE) for folder in find_papers()]
summaries = [
    f"results/{SCALE}/{name}.json"
    for name in ("coverage", "claims", "verdicts", "benchmarks")
]
page = f"results/{SCALE}/report/index.html"
house_time = f"results/{SCALE}/house_time.json"

for paper in papers:
    module_name = paper.name

    module:
        name: module_name
        snakefile:
            "workflow/paper.smk"
        config:
            {**config, "paper": paper.name}

    use rule * from module_name


rule all:
    default_target: True
    input:
        [product for paper in papers for product in paper.products()],
        summaries,
        page,


rule claims:
    input:
        [f"{paper.results}/claims.json" for paper in papers if paper.has_claims],


rule benchmarks:
    input:
        [paper.benchmark(name) for paper in papers for name in paper.paper.benchmarks],


rule summary:
    input:
        [product for paper in papers for product in paper.products()],
        modules=dag.loaded_files("common.results.report.summary"),
    output:
        summaries,
    log:
        f"logs/{SCALE}/summary.log",
    conda:
        "workflow/envs/reproductions.yaml"
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    params:
        scale=SCALE,
        benchmarks=dag.present(SCALE, "*/benchmarks/*.json"),
    shell:
        "python -m common.results summary --scale {params.scale} > {log} 2>&1"


rule report:
    input:
        summaries,
        [product for paper in papers for product in paper.products()],
        made_by=dag.report_made_by(paper.name for paper in papers),
    output:
        page,
    log:
        f"logs/{SCALE}/report.log",
    conda:
        "workflow/envs/reproductions.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        scale=SCALE,
        shown=dag.present(SCALE, "*/repeats.json", "house_time.json"),
    shell:
        "python -m common.results report --scale {params.scale} > {log} 2>&1"


rule house_time:
    input:
        # Not the report, which shows this: it may be older, and then its time counts all the same.
        [product for paper in papers for product in paper.products()],
        modules=dag.loaded_files("common.results.report.house_time"),
    output:
        house_time,
    log:
        f"logs/{SCALE}/house_time.log",
    conda:
        "workflow/envs/reproductions.yaml"
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    params:
        scale=SCALE,
        # Measured anew whenever any job was run since, and this is one.
        jobs=dag.measure_size(dag.journal(SCALE)),
    shell:
        "python -m common.results house_time --scale {params.scale} > {log} 2>&1"
