"""What pyproject.toml cannot say: a wheel carries the options, which lie in conf/ here and in diffusion/conf/ there."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithOptions(build_py):
    """Copies conf/ into the package that is built; an editable install reads it where it lies."""

    def options(self) -> list[Path]:
        return sorted(Path("conf").rglob("*.yaml"))

    def run(self) -> None:
        super().run()
        for path in [] if self.editable_mode else self.options():
            target = Path(self.build_lib, "diffusion", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(path), str(target))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, self.options())]


setup(cmdclass={"build_py": WithOptions})
