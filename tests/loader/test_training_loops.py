"""A plain loop, Lightning and accelerate train the same model to the same weights.

Collected only where Lightning and accelerate are installed.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from feedline import Loader, from_samples
from feedline.torch import as_dataloader, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch: Any = importlib.import_module("torch")
lightning: Any = importlib.import_module("lightning")
accelerate: Any = importlib.import_module("accelerate")

# They warn of their own future, and of num_workers=0.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
EPOCHS = 3
BATCHES = 13
WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    "fork": {"workers": 2, "use_multiprocessing": True},
}
Weights = dict[str, Any]


def make_loader(way: str) -> Loader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    dataset = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
    return Loader(from_samples(dataset, 16, shuffle=True), seed=3, **WAYS[way])


def make_model() -> Any:
    """With dropout, so that every draw from torch's generator shows in the weights."""
    torch.manual_seed(1)
    nn = torch.nn
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))


def loss_of(model: Any, batch: Any) -> Any:
    x, y = batch
    return torch.nn.functional.mse_loss(model(x), y)


def train_plainly(loader: Loader) -> Weights:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(EPOCHS):
        for batch in tensors(loader):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    return dict(model.state_dict())


def train_with_accelerate(loader: Loader, **settings: Any) -> Weights:
    config = accelerate.DataLoaderConfiguration(**settings)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model, optimizer, batches = accelerator.prepare(
        model, optimizer, as_dataloader(loader)
    )
    assert len(batches) == BATCHES
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
    return dict(accelerator.unwrap_model(model).state_dict())


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def training_step(self, batch: Any, index: int) -> Any:
        return loss_of(self.model, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("loss", loss_of(self.model, batch), batch_size=len(batch[0]))

    def predict_step(self, batch: Any, index: int) -> Any:
        return batch[0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def make_trainer(**settings: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def train_with_lightning(loader: Loader) -> Weights:
    module = Module()
    make_trainer(max_epochs=EPOCHS).fit(module, as_dataloader(loader))
    return dict(module.model.state_dict())


@pytest.fixture(scope="module")
def expected() -> Weights:
    with make_loader("inline") as loader:
        return train_plainly(loader)


@pytest.fixture(params=WAYS)
def loader(request: pytest.FixtureRequest) -> Iterator[Loader]:
    with make_loader(request.param) as made:
        yield made


@pytest.mark.parametrize(
    "train",
    [
        train_plainly,
        train_with_lightning,
        lambda loader: train_with_accelerate(loader, dispatch_batches=False),
    ],
    ids=["plain", "lightning", "accelerate"],
)
def test_every_loop_trains_the_same_model_to_the_same_weights(
    train: Callable[[Loader], Weights], loader: Loader, expected: Weights
) -> None:
    weights = train(loader)
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
    assert loader.stats().batches == EPOCHS * BATCHES
    assert loader.stats().epochs == EPOCHS


def test_accelerate_s_default_trains_on_every_batch_once_an_epoch(
    loader: Loader,
) -> None:
    train_with_accelerate(loader)
    assert loader.stats().batches == EPOCHS * BATCHES
    assert loader.stats().epochs == EPOCHS


def test_lightning_validates_predicts_and_stops_early(loader: Loader) -> None:
    module = Module()
    with make_loader("fork") as other:
        trainer = make_trainer(max_epochs=2, limit_train_batches=4)
        trainer.fit(module, as_dataloader(loader), as_dataloader(other))
        assert trainer.global_step == 8
        assert trainer.num_training_batches == 4
        assert float(trainer.callback_metrics["loss"]) > 0
        predicted = trainer.predict(module, as_dataloader(loader))
        assert sorted(map(len, predicted)) == [8] + [16] * 12
        assert len(torch.cat(predicted).unique(dim=0)) == 200
        assert len(list(tensors(loader))) == BATCHES


def test_accelerate_s_main_process_reads_for_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import accelerate
        from feedline import Loader, from_samples
        from feedline.torch import as_dataloader

        accelerator = accelerate.Accelerator(cpu=True)
        batches = from_samples(list(range(40)), 4, shuffle=True)
        with Loader(batches, use_multiprocessing=True, seed=3) as loader:
            mine = accelerator.prepare(as_dataloader(loader, distributed=True))
            for _ in range(2):
                parts = [part.clone() for part in mine]
                numbers = sorted(
                    number
                    for part in parts
                    for number in accelerator.gather(part).tolist()
                )
                assert numbers == list(range(40)), numbers
            try:
                list(accelerator.prepare(as_dataloader(loader)))
            except RuntimeError as error:
                assert "each of 2 processes would train on every batch" in str(error)
            else:
                raise AssertionError("not refused")
        accelerator.end_training()
        """)
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node", "2", str(script),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
