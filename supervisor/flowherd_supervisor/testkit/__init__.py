"""Real programs for tests, yours and ours: an embedded engine and a supervisor."""

from flowherd_supervisor.testkit.engine_program import EngineProgram
from flowherd_supervisor.testkit.programs import eventually
from flowherd_supervisor.testkit.supervisor_program import SupervisorProgram

__all__ = ["EngineProgram", "SupervisorProgram", "eventually"]
