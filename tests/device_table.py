"""Which tasks, losses and probes meet on the pretend accelerator.

    python -m tests.device_table    # the table of docs/costs.md

Every task has every loss. Half of these pairs have probes, in shares such that every task and every loss has every
probe; the other half has none and runs in the slow lane. All triples would take eight times as long.
"""

from tests.device_probes import PROBES
from tests.device_scene import LOSSES
from toylab.tasks import TASKS


def triples() -> list[tuple[type, str, list[str]]]:
    """Every task with every loss, and the probes that take their gradient."""
    shares = len(LOSSES) // 2
    return [
        (
            task,
            loss,
            [] if (i + j) % 2 else [probe for k, probe in enumerate(PROBES) if (i + j) // 2 % shares == k % shares],
        )
        for i, task in enumerate(TASKS)
        for j, loss in enumerate(LOSSES)
    ]


def table() -> str:
    """How many pairs and triples there are, and how many are tried, in Markdown."""
    tried = [(task, loss, probe) for task, loss, shown in triples() for probe in shown]
    tasks, all_losses, probes = len(TASKS), len(LOSSES), len(PROBES)
    rows = [
        ("task, loss", tasks * all_losses, len({(task, loss) for task, loss, _ in triples()})),
        ("task, probe", tasks * probes, len({(task, probe) for task, _, probe in tried})),
        ("loss, probe", all_losses * probes, len({(loss, probe) for _, loss, probe in tried})),
        ("task, loss, probe", tasks * all_losses * probes, len(set(tried))),
    ]
    head = [f"| {tasks} tasks, {all_losses} losses, {probes} probes | combinations | tried |", "| --- | ---: | ---: |"]
    return "\n".join([*head, *(f"| {name} | {there} | {done} |" for name, there, done in rows)])


if __name__ == "__main__":
    print(table())
