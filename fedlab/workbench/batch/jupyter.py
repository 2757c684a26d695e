"""The kernel that notebooks run in: always this environment's own, and nothing of the user's.

A `python3` kernelspec in the user's home or on JUPYTER_PATH wins over the environment's in
Jupyter's own search, and then a notebook runs against other packages than those it was written for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from fedlab.study.forks import Forked, ForkServer
from fedlab.study.records import LOG, TRACE
from fedlab.study.results import RUN_FOLDER
from fedlab.study.targets import Share, thread_variables

_NAME = "python3"
_FORKS = "fedlab-forks"
# What would bring the user's own kernels, settings and code into a run (IPython runs the last one).
_FOREIGN = {
    *("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "MPLBACKEND", "MATPLOTLIBRC"),
    *("PYTHONSTARTUP", "PYTHONIOENCODING"),
}


class OwnKernelSpecs(KernelSpecManager):
    """Knows one kernel, `python3`: the interpreter that runs this.

    JupyterLab takes it too: ``jupyter lab
    --ServerApp.kernel_spec_manager_class=fedlab.workbench.batch.jupyter.OwnKernelSpecs``.
    """

    def find_kernel_specs(self) -> dict[str, str]:
        """Name and folder of the only kernel."""
        import ipykernel.kernelspec

        return {_NAME: ipykernel.kernelspec.RESOURCES}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how to start the kernel; any other name is refused."""
        if kernel_name != _NAME:
            raise NoSuchKernel(kernel_name)
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (fedlab)",
            language="python",
            metadata={"debugger": True},
            resource_dir=self.find_kernel_specs()[_NAME],
        )


class WarmKernels(OwnKernelSpecs):
    """Knows the same kernel, forked from a process that has imported what it imports."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how to start the kernel."""
        spec = super().get_kernel_spec(kernel_name)
        spec.metadata["kernel_provisioner"] = {"provisioner_name": _FORKS}
        return spec


class ForkProvisioner(LocalProvisioner):
    """Gets a kernel's process from its manager's fork server."""

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        """Fork a kernel, and return how to reach it."""
        manager: Any = self.parent
        self.process = manager.fork(cmd[cmd.index("-f") :], given["cwd"], given["env"])
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class WarmKernelManager(AsyncKernelManager):
    """Manages one forked kernel; `scratch` holds its log, and at its end its trace."""

    server: ForkServer
    scratch: Path
    process: Forked | None = None

    @classmethod
    def of(cls, server: ForkServer, scratch: Path) -> WarmKernelManager:
        """Return the manager of a kernel that `server` is going to fork."""
        name = _FORKS
        target = f"{ForkProvisioner.__module__}:{ForkProvisioner.__qualname__}"
        factory = KernelProvisionerFactory.instance()
        factory.provisioners[name] = EntryPoint(name, target, factory.GROUP_NAME)
        manager = cls(
            kernel_spec_manager=WarmKernels(),
            connection_file=str(scratch / "kernel.json"),
            # It writes its trace last, which takes its time; the run's limit is what ends it.
            shutdown_wait_time=1e9,
        )
        manager.server, manager.scratch = server, scratch
        return manager

    def fork(self, arguments: list[str], cwd: str, env: Mapping[str, str]) -> Forked:
        """Return the kernel's process; Jupyter's and IPython's files go with its scratch folder."""
        folders = {f"JUPYTER_{kind}_DIR": kind.lower() for kind in ("CONFIG", "DATA", "RUNTIME")}
        folders |= {"IPYTHONDIR": "ipython"}
        self.process = self.server.fork(
            kernel=[*arguments, "--log-level=ERROR"],
            cwd=cwd,
            env={**env, **{name: str(self.scratch / one) for name, one in folders.items()}},
            log=str(self.scratch / LOG),
            trace=str(self.scratch / TRACE),
            scratch=str(self.scratch),
            caches=[
                env["XDG_CACHE_HOME"],
                str(self.scratch),
                env.get(RUN_FOLDER, str(self.scratch)),
            ],
        )
        return self.process

    def kill(self) -> None:
        """Kill the kernel, and whatever it has started."""
        if self.process is not None:
            self.process.kill()


def environment(share: Share) -> dict[str, str]:
    """Return the environment variables of kernels, and of what forks them."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    folders = {"MPLCONFIGDIR": str(share.cache / "matplotlib"), "XDG_CACHE_HOME": str(share.cache)}
    # The debugger warns of frozen modules on every start; nobody debugs a batch run.
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**kept, **folders, **quiet, **thread_variables(share.threads)}
