"""Drawings of the system and of one layer."""

from __future__ import annotations

from matplotlib.axes import Axes

from common.results.diagrams import graph


def system(ax: Axes, log_size: str) -> None:
    """Logging above, scoring below; ``log_size`` stands in the log's box."""
    log = f"log of projected\ngradients, {log_size}"
    hessian = "their second\nmoment H"
    places = {
        "training\ndata": (0.0, 1.0),
        "model\nwith hooks": (1.0, 1.0),
        log: (2.4, 1.0),
        hessian: (2.4, 0.5),
        "queries": (0.0, 0.0),
        "same model\nand hooks": (1.0, 0.0),
        "(H + λ)⁻¹ g": (2.4, 0.0),
        "scores": (3.6, 0.0),
    }
    arrows = [
        ("training\ndata", "model\nwith hooks"),
        ("model\nwith hooks", log),
        (log, hessian),
        (hessian, "(H + λ)⁻¹ g"),
        (log, "scores"),
        ("queries", "same model\nand hooks"),
        ("same model\nand hooks", "(H + λ)⁻¹ g"),
        ("(H + λ)⁻¹ g", "scores"),
    ]
    graph(ax, places, arrows)
    ax.text(-0.3, 1.3, "logging, once", fontsize="small", style="italic")
    ax.text(-0.3, 0.2, "influence, for each query", fontsize="small", style="italic")


def add_on_layer(ax: Axes) -> None:
    """A linear layer, and the way of its gradient through both projections."""
    inputs, outputs = "input x", "output's gradient e"
    small, whole = "Σ (Pₒ e) (Pᵢ x)ᵀ\nkₒ × kᵢ numbers", "Σ e xᵀ\nnₒ × nᵢ numbers"
    places = {
        inputs: (0.0, 1.0),
        "layer W": (1.3, 1.0),
        outputs: (2.6, 1.0),
        "Pᵢ x": (0.0, 0.0),
        whole: (1.3, 0.5),
        small: (1.3, 0.0),
        "Pₒ e": (2.6, 0.0),
    }
    arrows = [
        (inputs, "layer W"),
        (outputs, "layer W"),
        (inputs, "Pᵢ x"),
        (outputs, "Pₒ e"),
        ("Pᵢ x", small),
        ("Pₒ e", small),
    ]
    graph(ax, places, arrows, never=whole)
