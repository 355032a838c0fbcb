"""The API's errors."""


class OpenAIError(Exception):
    """`code` is the HTTP status."""

    def __init__(self, message=None, code=500, internal_message=""):
        super().__init__(message)
        self.message, self.code, self.internal_message = message, code, internal_message


class InvalidRequestError(OpenAIError):
    """The client's own fault; `param` is the field it lies in."""

    def __init__(self, message, param, code=400, internal_message=""):
        self.param = param
        OpenAIError.__init__(self, message, code, internal_message)


class ServiceUnavailableError(OpenAIError):
    """Nothing can be answered now."""

    def __init__(self, message="Service unavailable, please try again later.", code=503, internal_message=""):
        OpenAIError.__init__(self, message, code, internal_message)
