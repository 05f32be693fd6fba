import pytest
import torch
from ignite.engine import Engine

from pipeline.engine.averaging import WeightAverage, final_momentum


def averaged(iterations: int, *, momentum: float = 0.002) -> tuple[Engine, WeightAverage]:
    """A network of one weight that is i after iteration i, and its average, which begins at 0."""
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    engine = Engine(lambda engine, _: network.weight.data.fill_(engine.state.iteration))
    average = WeightAverage(network, momentum=momentum, iterations=iterations)
    average.attach(engine)
    return engine, average


def weight_of(average: WeightAverage) -> float:
    return float(average.ema_model.weight)


def test_the_average_is_the_one_worked_out_by_hand() -> None:
    # Warm-up over 30 / 10 = 3 iterations from 0.2 to 6 / 30 = 0.2: the momentum is 0.2 throughout.
    engine, average = averaged(30)
    engine.run([0] * 3)
    # 0.2 * 1 = 0.2; 0.8 * 0.2 + 0.2 * 2 = 0.56; 0.8 * 0.56 + 0.2 * 3 = 1.048
    assert weight_of(average) == pytest.approx(1.048)


def test_the_momentum_falls_over_the_first_tenth() -> None:
    # Of 50 iterations, five: 0.2, 0.18, 0.16, 0.14, 0.12 = 6 / 50, and so on.
    engine, average = averaged(50)
    engine.run([0] * 7)
    expected = 0.0
    for iteration, momentum in enumerate((0.2, 0.18, 0.16, 0.14, 0.12, 0.12, 0.12), start=1):
        expected = (1 - momentum) * expected + momentum * iteration
    assert weight_of(average) == pytest.approx(expected)


@pytest.mark.parametrize(("iterations", "expected"), [(30_000, 0.002), (3000, 0.002), (300, 0.02), (6, 0.5), (1, 0.5)])
def test_a_short_training_forgets_its_beginning_as_a_long_one_does(iterations: int, expected: float) -> None:
    assert final_momentum(0.002, iterations) == pytest.approx(expected)


def test_a_training_of_six_iterations_is_averaged_over_its_last_ones() -> None:
    engine, average = averaged(6)
    engine.run([0] * 6)
    assert 4.5 < weight_of(average) < 6


def test_the_average_goes_on_where_it_was() -> None:
    engine, whole = averaged(50)
    engine.run([0] * 8)
    first, half = averaged(50)
    first.run([0] * 3)
    second, rest = averaged(50)
    rest.load_state_dict(half.state_dict())
    second.load_state_dict({"iteration": 3, "epoch_length": 8, "max_epochs": 1})
    second.run([0] * 8)
    assert weight_of(rest) == weight_of(whole)
