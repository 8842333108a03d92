# What builds stays behind: npm, which fetches what the page needs, takes more room than all the rest.
FROM python:3.13-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/pushsvc

# Layers that change seldom come first. pip fetches only packages that a lock file names with their hashes.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --requirement requirements/build.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --prefix /opt/installed --ignore-installed --no-build-isolation --use-pep517 --require-hashes \
    --requirement requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY requirements/page requirements/page
COPY src src
RUN pip install --prefix /opt/installed --no-build-isolation --no-deps .

FROM python:3.13-slim

WORKDIR /opt/pushsvc
COPY --from=build /opt/installed /usr/local
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
CMD ["pushsvc", "--help"]
