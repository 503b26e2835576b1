"""From people and their ratings to ranked movies.

Ratings are folded into the hidden layer on every request, so a rating counts at once and nothing is stored.

    given         ratings as somebody tells them: titles, likes
    profiles      ratings, stored or given, as rows over a version's vocabulary
    lists         one person's list, or many people's at once: filters, pages, diversity, reasons
    comparisons   what a list would be with other ratings
    groups        one list for several people
    predictions   how likely somebody is to like given movies
    neighbours    movies like a movie
"""

from app.recommendations.comparisons import Change as Change
from app.recommendations.comparisons import Changes as Changes
from app.recommendations.comparisons import what_if as what_if
from app.recommendations.groups import GroupList as GroupList
from app.recommendations.groups import Member as Member
from app.recommendations.groups import for_group as for_group
from app.recommendations.lists import RankedMovie as RankedMovie
from app.recommendations.lists import Reason as Reason
from app.recommendations.lists import RecommendationList as RecommendationList
from app.recommendations.lists import Wanted as Wanted
from app.recommendations.lists import for_ratings as for_ratings
from app.recommendations.lists import for_user as for_user
from app.recommendations.lists import for_users as for_users
from app.recommendations.lists import popular as popular
from app.recommendations.neighbours import SimilarMovie as SimilarMovie
from app.recommendations.neighbours import SimilarMovies as SimilarMovies
from app.recommendations.neighbours import similar as similar
from app.recommendations.predictions import Prediction as Prediction
from app.recommendations.predictions import predictions as predictions
from app.recommendations.predictions import predictions_for_user as predictions_for_user
from app.recommendations.profiles import Strategy as Strategy
