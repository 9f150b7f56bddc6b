"""Every error that Understudy raises on purpose, in one tree.

UnderstudyError
├── Refused            what was sent cannot be taken; sending it again unchanged will not help
│   ├── ImageRefused       one image cannot be decoded, or is over a limit
│   ├── ArchiveRefused     an archive cannot be read, or is over a limit
│   ├── LabeledSetRefused  the labeled images cannot make a training set and a holdout
│   ├── ArtifactRefused    an exported model is not what its card says
│   ├── RecipeRefused      a recipe, a student or one of their fields does not exist or contradicts itself
│   ├── SourceRefused      a remote source may not be asked for, or does not give what was asked
│   ├── SignatureRefused   a webhook's request is not from us, is too old, or was changed on its way
│   ├── UploadRefused      an upload is too large, empty or of the wrong kind
│   ├── LabelSetRefused    a label set that the catalog lists is damaged
│   └── BodyTimeout        a request's body took too long to arrive
├── NotFound           there is nothing of that name
├── Conflict           it contradicts what is there already
├── NotReady           it will work later; the message says what is awaited
│   ├── SourceAway         a remote source does not answer, or not in time
│   ├── NoChampion         no model has been promoted yet
│   ├── Overloaded         more is accepted already than can be answered in time
│   └── DeadlineExceeded   the time that the client gave is over
├── LeaseLost          another process has taken this work over: stop, and write nothing
├── Diverged           training gave numbers that are not finite, or a loss that ran away
└── SettingsRefused    a setting is missing or wrong

Each carries a stable ``code`` for programs; the message is for people: the value seen, the limit,
what to do. Which HTTP status belongs to which error is the service's business alone.
"""


class UnderstudyError(Exception):
    """The root: catch this to catch everything raised on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class Refused(UnderstudyError):
    """What was sent cannot be taken."""

    code = "refused"


class ImageRefused(Refused):
    """One image cannot be decoded, or is over a limit; ``code`` is the receipt's reason."""

    code = "not_an_image"


class ArchiveRefused(Refused):
    """An archive cannot be read, or is over a limit."""

    code = "not_an_archive"


class LabeledSetRefused(Refused):
    """The labeled images cannot make a training set and a holdout."""

    code = "labeled_set_refused"


class ArtifactRefused(Refused):
    """An exported model is not what its card says."""

    code = "artifact_refused"


class RecipeRefused(Refused):
    """A recipe, a student or one of their fields does not exist or contradicts itself."""

    code = "recipe_refused"


class SourceRefused(Refused):
    """A remote source may not be asked for, or does not give what was asked."""

    code = "source_refused"


class SignatureRefused(Refused):
    """A webhook's request is not from us, is too old, or was changed on its way."""

    code = "bad_signature"


class UploadRefused(Refused):
    """An upload is too large, empty or of the wrong kind."""

    code = "upload_refused"


class LabelSetRefused(Refused):
    """A label set that the catalog lists is damaged; the message names it."""

    code = "label_set_damaged"


class LabelSetMissing(Refused):
    """A label set that the catalog lists is not in the store; the message names it."""

    code = "label_set_missing"


class BodyTimeout(Refused):
    """A request's body took too long to arrive."""

    code = "body_timeout"


class NotFound(UnderstudyError):
    """There is nothing of that name."""

    code = "not_found"


class Conflict(UnderstudyError):
    """It contradicts what is there already."""

    code = "conflict"


class NotReady(UnderstudyError):
    """It will work later; the message says what is awaited."""

    code = "not_ready"


class SourceAway(NotReady):
    """A remote source does not answer, or not in time."""

    code = "source_away"


class NoChampion(NotReady):
    """No model has been promoted yet."""

    code = "no_champion"


class Overloaded(NotReady):
    """More is accepted already than can be answered in time; ``retry_after_s`` says when to come back."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(NotReady):
    """The time that the client gave is over; its image was dropped before it cost anything more."""

    code = "deadline_exceeded"


class LeaseLost(UnderstudyError):
    """Another process has taken this work over: stop, and write nothing."""

    code = "lease_lost"


class Diverged(UnderstudyError):
    """Training gave numbers that are not finite, or a loss that ran away."""

    code = "diverged"


class SettingsRefused(UnderstudyError):
    """A setting is missing or wrong."""

    code = "settings_refused"
