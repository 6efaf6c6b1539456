"""What predictions cost: a thousand by the closed form, and the 2023 study's 60 cells of 90 s by simulation, on one core."""

from __future__ import annotations

import time

import tgibench as tb


def main():
    cells = tuple(tb.llama2_sagemaker_2023())
    deployments = list(dict.fromkeys(cell.deployment for cell in cells))
    prompts = tb.study_prompts()
    loads = [tb.ClosedLoop(users, duration_s=90) for users in range(1, 68)]
    first = time.process_time()
    tb.predict(cells[0].deployment, cells[0].load, prompts)
    began = time.process_time()
    study = tb.predict_study(deployments, loads, prompts)
    assert not study.failures
    closed_s = time.process_time() - began
    print(
        f"closed form: {len(study)} predictions in {closed_s:.2f} s; the first, which reads the prompts, {began - first:.2f} s"
    )
    began = time.process_time()
    requests = 0
    for cell in cells:
        requests += tb.predict(cell.deployment, cell.load, prompts, method="simulation").metrics.counts["issued"]
    print(f"simulation: {len(cells)} cells of 90 s ({requests:,} requests) in {time.process_time() - began:.1f} s")


if __name__ == "__main__":
    main()
