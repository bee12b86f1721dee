# One image for the projector and the API: docker build --tag dspy-ledger .

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY producer producer
COPY projector projector
COPY api api
COPY cli cli
RUN pip --python /opt/venv install ".[projector,api]"

FROM python:3.12-slim
# Give your own ids (--build-arg HOST_UID=$(id -u) --build-arg HOST_GID=$(id -g)) where a folder of yours
# is mounted on /app/dspy_programs. With `docker run --user` alone, /app/data would be another user's.
ARG HOST_UID=1000
ARG HOST_GID=1000
RUN groupadd --non-unique --gid "$HOST_GID" ledger \
    && useradd --non-unique --uid "$HOST_UID" --gid ledger --no-create-home --shell /usr/sbin/nologin ledger \
    && install --directory --owner="$HOST_UID" --group="$HOST_GID" /app/data /app/dspy_programs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DSPY_LEDGER_DATA_DIR=/app/data \
    DSPY_LEDGER_PROGRAMS_DIR=/app/dspy_programs \
    DSPY_LEDGER_MODELS_FILE=/app/models.yaml
WORKDIR /app
USER $HOST_UID:$HOST_GID
EXPOSE 8321
CMD ["dspy-ledger", "--help"]
