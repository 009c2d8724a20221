"""The API's JSON replies."""

from pydantic import BaseModel, Field


class Failure(BaseModel):
    """Why a request failed, in one line: what was expected, what was received, what to do."""

    error: str


class Model(BaseModel):
    """A model that this server offers."""

    name: str
    task: str
    alias: str = Field(description="short name of the model")
    variant: str = Field(description="difference from the task's default model: hq (better, slower) or gray")
    default: bool = Field(description="whether the task's name selects this model")
    summary: str
    license: str
    parameters: int
    metrics: dict[str, float] = Field(description="measured results, in dB unless the name says otherwise")


class Models(BaseModel):
    """Available tasks, models, and formats."""

    tasks: list[str]
    models: list[Model]
    formats: list[str] = Field(description="output formats")


class Progress(BaseModel):
    """Progress of a request."""

    state: str = Field(description="receiving, waiting or restoring")
    ahead: int = Field(description="number of images ahead in the queue")
    done: int = Field(description="completed tiles")
    total: int = Field(description="total number of tiles; 0 until the network starts")
    seconds: float = Field(description="processing time so far, in seconds")
    left: float | None = Field(description="estimated remaining processing time in seconds; null if unknown")


class Health(BaseModel):
    """Health of the server."""

    status: str
    version: str
