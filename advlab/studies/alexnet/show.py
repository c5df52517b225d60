"""Tables and figures of an AlexNet run: its results and its learning curve."""

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from advlab.report import Shown, canvas
from advlab.report.numbers import percent, ruled
from advlab.report.palette import hue
from advlab.store import Study
from advlab.studies.alexnet.work import curve
from advlab.transfer.metrics import wilson


def show(study: Study, _width: int) -> Shown:
    return Shown(
        tables=[table(study)],
        files={"figures/learning_curve.png": learning_curve(study)},
        hints=[f"to use it in other studies: --models study:{study.store.uri}"],
        summary=study.manifest["result"],
    )


def table(study: Study) -> Table:
    config, result = study.config, study.manifest["result"]
    rows = curve(study.store)
    shown = ruled(f"AlexNet ({config['variant']}, width {config['width']:g}) on {config['data']}", ["what"], ["value"])
    shown.add_row("weights and biases", f"{result['parameters']:,}")
    shown.add_row("epochs", str(len(rows)))
    shown.add_row("training accuracy, undistorted", f"{percent(1 - result['train_error'])}%")
    if "validation_error" in result:
        shown.add_row("validation accuracy", f"{percent(1 - result['validation_error'])}%")
    low, high = wilson(result["test_errors"], result["test_images"])
    interval = f"[{percent(1 - high)}, {percent(1 - low)}]"
    shown.add_row("test accuracy, with its 95% interval", f"{percent(1 - result['test_error'])}% {interval}")
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["images_per_second"] * row["seconds"] for row in rows)
    shown.add_row("images per second", f"{images / seconds:.0f}")
    shown.add_row("share of the workers' peak", f"{percent(rows[-1]['utilisation'])}%")
    shown.add_row("hours of training", f"{seconds / 3600:.3f}")
    return shown


def learning_curve(study: Study) -> bytes:
    """Accuracy per epoch on training and held-out images, and on the test images at the end; PNG."""
    rows = curve(study.store)
    result = study.manifest["result"]
    epochs = [row["epoch"] for row in rows]
    with rc_context(canvas.STYLE):
        figure = canvas.figure(canvas.CHART_WIDTH, 3.6)
        axes = figure.add_subplot()
        axes.plot(epochs, [100 * row["train_accuracy"] for row in rows], color=hue(0), label="training, distorted")
        if "validation_accuracy" in rows[0]:
            held_out = [100 * row["validation_accuracy"] for row in rows]
            axes.plot(epochs, held_out, color=hue(1), linestyle=(0, (5, 1.5)), label="held out")
        low, high = wilson(result["test_errors"], result["test_images"])
        right = 100 * (1 - result["test_error"])
        error = [[right - 100 * (1 - high)], [100 * (1 - low) - right]]
        axes.errorbar([epochs[-1]], [right], yerr=error, fmt="o", color=hue(2), capsize=3, label="test, at the end")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlim=(0, None), xlabel="epoch", ylabel="accuracy, %")
        axes.grid()
        axes.legend(loc="lower right")
        return canvas.png(figure)
