# One image for the API, the worker and the command line: `docker build -t harmonium .`
#
#   docker run --rm -v harmonium:/data harmonium keys create --name admin --role admin
#   docker run -v harmonium:/data -p 127.0.0.1:8000:8000 harmonium
#
# That is one process tree on SQLite in /data. docker-compose.yml has PostgreSQL and a worker of its own.

FROM python:3.13-slim AS dependencies
# The same uv as in the Makefile; a test keeps them alike.
ARG UV_VERSION=0.13.8
# Certificates of the system, so that a company's proxy works; copies, because the cache is another file system.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/harmonium
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}" && uv venv "$VIRTUAL_ENV"
WORKDIR /src
COPY pyproject.toml requirements.lock ./
# The lock also holds what only developers need, so it constrains here: what the project and its extra `postgres`
# pull in is installed at the locked versions, and a file whose hash is not in the lock stops the build.
# The libraries' own tests are a third of their size. What stays is compiled now, because nobody may write there
# later, and every start would compile again.
RUN --mount=type=cache,target=/root/.cache \
    uv pip install --require-hashes --constraints requirements.lock --requirements pyproject.toml --extra postgres \
    && find "$VIRTUAL_ENV" -type d -name tests -prune -exec rm -r {} + \
    && python -m compileall -q -j 0 "$VIRTUAL_ENV/lib"

FROM dependencies AS build
COPY . .
RUN --mount=type=cache,target=/root/.cache \
    uv build --wheel --out-dir /dist --require-hashes --build-constraints requirements.lock

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Harmonium" \
      org.opencontainers.image.description="Movie recommendations over REST from a restricted Boltzmann machine" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number, so that volumes keep their owner from image to image. The folders exist in the image because a
# new volume takes over their owner: /data is ours to write, /keys only compose's migrate service writes.
RUN groupadd --gid 10001 harmonium \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin harmonium \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data /keys
# A layer of its own for the dependencies: a new version of the project then sends only its own few files.
COPY --from=dependencies /opt/harmonium /opt/harmonium
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    VIRTUAL_ENV=/opt/harmonium uv pip install --no-cache --offline --no-deps --compile-bytecode /dist/*.whl
# From / the default paths, data/harmonium.db and data/spool, lie in the volume; so does the demo's data/demo.
WORKDIR /
# All interfaces, or no published port would reach it; without an API key it refuses to start and says how to
# make one. Log lines must not wait in a buffer.
ENV PATH=/opt/harmonium/bin:$PATH HARMONIUM_HOST=0.0.0.0 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /data
EXPOSE 8000
# For `serve`; other commands in a service of their own need another check, or none.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"HARMONIUM_PORT\", 8000)}/health/ready', timeout=8)"]
ENTRYPOINT ["harmonium"]
CMD ["serve"]
