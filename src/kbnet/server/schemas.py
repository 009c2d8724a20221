"""The API's JSON replies."""

from pydantic import BaseModel, Field


class Failure(BaseModel):
    """Why a request was not served, in one line: what was expected, what came, what to do."""

    error: str


class Model(BaseModel):
    """Weights that this server has."""

    name: str
    task: str
    alias: str = Field(description="the shorter name it answers to")
    variant: str = Field(description="what sets it apart from the task's default: hq (better, slower) or gray")
    default: bool = Field(description="whether the task's name means this model")
    summary: str
    license: str
    parameters: int
    metrics: dict[str, float] = Field(description="measured figures, dB unless the name says otherwise")


class Models(BaseModel):
    """Tasks, models, and formats."""

    tasks: list[str]
    models: list[Model]
    formats: list[str] = Field(description="in which results are written")


class Progress(BaseModel):
    """Progress of a request."""

    state: str = Field(description="receiving, waiting or restoring")
    ahead: int = Field(description="pictures that come before this one")
    done: int = Field(description="tiles done")
    total: int = Field(description="tiles in all, 0 until the network begins")
    seconds: float = Field(description="of work so far")
    left: float | None = Field(description="estimated seconds of work left, null where unknown")


class Health(BaseModel):
    """The server answers."""

    status: str
    version: str
