"""Entry point of the example's runs."""

from pathlib import Path

from papers.example_paper.programs import PROGRAMS

from common.cli import guarded, paper_main

if __name__ == "__main__":
    guarded(lambda: paper_main(Path(__file__).parent, PROGRAMS))
