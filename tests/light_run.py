"""launch.py run so that it tells which heavy libraries it has imported."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "lm_eval", "datasets", "pandas", "scipy", "wandb", "peft")
RUN = f"""
import runpy, sys
sys.argv[0] = {str(ROOT / "launch.py")!r}
sys.path.insert(0, {str(ROOT)!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("HEAVY", *(name for name in {HEAVY} if name in sys.modules))
"""
